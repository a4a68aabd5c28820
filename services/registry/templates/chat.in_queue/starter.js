/**
 * Chat In-Queue: a consumer has opened a chat and waits for an agent. Runs once per conversation.
 *
 * input.payload   what happened; the template's sample payload shows every field
 * input.headers   [{ key, value }] as the chat platform sent them
 * context         account, template, functionVersion, eventId, conversationId, attempt, idempotencyKey,
 *                 deadline, getRemainingTimeMs()
 *
 * What is returned is recorded with the event. A thrown error is a failed attempt, and the event is tried
 * again as the function's retry settings say. A chat lambda cannot send commands back into the chat: it
 * calls other systems.
 */
async function lambda(input, context) {
  const { chatSessionKey, chatStartPageURL, campaignId, engagementId, ttr } = input.payload;

  // The consumer's IP address is personal data, so it goes neither into the case nor into the log.
  const ticket = {
    subject: `Chat waiting on ${chatStartPageURL ?? "an unknown page"}`,
    chat: chatSessionKey,
    campaign: campaignId,
    engagement: engagementId,
    respondWithinSeconds: ttr?.newTtr?.value ?? null,
  };
  console.info(`chat ${chatSessionKey} waits in the queue (attempt ${context.attempt})`);

  // To open a case for real, set two things on the function and deploy it:
  //   settings.environment    CRM_URL = https://crm.example.com/cases
  //   settings.allowed_hosts  crm.example.com  (any other host is refused)
  const crmUrl = process.env.CRM_URL;
  if (!crmUrl) {
    console.info("CRM_URL is not set: no case was opened");
    return { opened: false, ticket };
  }

  // A run that reaches its timeout is stopped. With little time left it is better to fail now, with an
  // error that says why, and be tried again.
  if (context.getRemainingTimeMs() < 100) {
    throw new Error("too little time left to call the CRM");
  }

  // POST, PUT, PATCH and DELETE carry an Idempotency-Key header that stays the same when this event is
  // tried again: a CRM that honours it opens one case, not two.
  const response = await fetch(crmUrl, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(ticket),
  });
  if (!response.ok) {
    throw new Error(`the CRM answered ${response.status}`);
  }
  return { opened: true, case: await response.json() };
}
