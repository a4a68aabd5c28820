/**
 * Chat End: a chat was closed. Runs once per conversation.
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
  const { chatSessionKey, endReason, agentId, duration } = input.payload;

  const summary = {
    chat: chatSessionKey,
    endReason,
    // A chat that nobody took ended in the queue.
    answered: agentId !== undefined,
    // Somebody may want to call this consumer back.
    abandoned: agentId === undefined || endReason === "disconnect" || endReason === "timeout",
    minutes: duration === undefined ? null : Math.round(duration / 6) / 10,
  };
  console.info(`chat ${chatSessionKey} ended: ${endReason}`);

  // To close the case in a CRM, set on the function, and deploy it:
  //   settings.environment    CRM_URL = https://crm.example.com/cases
  //   settings.allowed_hosts  crm.example.com  (any other host is refused)
  const crmUrl = process.env.CRM_URL;
  if (!crmUrl) {
    return { closed: false, summary };
  }

  // A run that reaches its timeout is stopped, so look before a slow call.
  if (context.getRemainingTimeMs() < 100) {
    throw new Error("too little time left to call the CRM");
  }
  const response = await fetch(`${crmUrl}/${encodeURIComponent(chatSessionKey)}`, {
    method: "PATCH",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ status: summary.abandoned ? "call-back" : "closed", summary }),
  });
  if (!response.ok) {
    throw new Error(`the CRM answered ${response.status}`);
  }
  return { closed: true, summary };
}
