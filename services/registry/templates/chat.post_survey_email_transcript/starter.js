/**
 * Chat Post Survey E-Mail Transcript: a consumer has answered the survey after a chat. Runs once per conversation.
 *
 * input.payload   what happened; the template's sample payload shows every field
 * input.headers   [{ key, value }] as the platform sent them
 * context         account, template, functionVersion, eventId, conversationId, attempt, idempotencyKey,
 *                 deadline, getRemainingTimeMs()
 *
 * What is returned is recorded with the event. A thrown error is a failed attempt, and the event is tried
 * again as the function's retry settings say. A lambda cannot send commands back into the conversation: it
 * calls other systems.
 */
async function lambda(input, context) {
  const { csatRank, skillName, agentName, questionWithAnswers } = input.payload;

  const rank = csatRank >= 1 ? csatRank : null;
  const rating = {
    conversation: context.conversationId,
    rank,
    // Somebody may want to call this consumer.
    followUp: rank !== null && rank <= 2,
    skill: skillName ?? null,
    agent: agentName ?? null,
    answers: questionWithAnswers.map(({ question, answer }) => ({ question, answers: answer ? answer.split(";") : [] })),
  };
  console.info(`conversation ${context.conversationId} was rated ${rank ?? "not at all"}`);

  // To follow up on bad ratings, set on the function, and deploy it:
  //   settings.environment    CRM_URL = https://crm.example.com/ratings
  //   settings.allowed_hosts  crm.example.com  (any other host is refused)
  const crmUrl = process.env.CRM_URL;
  if (!crmUrl) {
    return { sent: false, rating };
  }

  // A run that reaches its timeout is stopped, so look before a slow call.
  if (context.getRemainingTimeMs() < 100) {
    throw new Error("too little time left to call the CRM");
  }
  const response = await fetch(crmUrl, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(rating),
  });
  if (!response.ok) {
    throw new Error(`the CRM answered ${response.status}`);
  }
  return { sent: true, rating };
}
