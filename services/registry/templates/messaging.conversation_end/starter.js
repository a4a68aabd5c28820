/**
 * Messaging Conversation End: a conversation was closed. Runs once per conversation.
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
  const { general, end } = input.payload;

  const { startTs, serverTimestamp } = general;
  const summary = {
    conversation: general.convId,
    closedBy: end.closeReason,
    // The system closes a conversation in which nobody wrote any more.
    abandoned: end.closeReason === "SYSTEM",
    minutes: startTs && serverTimestamp ? Math.round((serverTimestamp - startTs) / 6000) / 10 : null,
  };
  console.info(`conversation ${general.convId} was closed by ${end.closeReason}`);

  // To close the case, set on the function, and deploy it:
  //   settings.environment    CRM_URL = https://crm.example.com/cases
  //   settings.allowed_hosts  crm.example.com  (any other host is refused)
  const crmUrl = process.env.CRM_URL;
  if (!crmUrl) {
    return { sent: false, summary };
  }

  // A run that reaches its timeout is stopped, so look before a slow call.
  if (context.getRemainingTimeMs() < 100) {
    throw new Error("too little time left to call the CRM");
  }
  const response = await fetch(`${crmUrl}/${encodeURIComponent(general.convId)}`, {
    method: "PATCH",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(summary),
  });
  if (!response.ok) {
    throw new Error(`the CRM answered ${response.status}`);
  }
  return { sent: true, summary };
}
