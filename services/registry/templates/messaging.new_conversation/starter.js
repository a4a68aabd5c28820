/**
 * Messaging New Conversation: a consumer has opened a conversation. Runs once per conversation.
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
  const { general, start } = input.payload;

  // The consumer's IP address is personal data, so it goes neither into the case nor into the log.
  const ticket = {
    conversation: general.convId,
    campaign: general.campaignInfo?.id ?? null,
    language: general.clientLanguage ?? null,
    firstConversation: start?.firstConversation ?? null,
    // Nobody may answer soon: a case that says so can be called back in the morning.
    offHours: general.inOffHours ?? false,
  };
  console.info(`conversation ${general.convId} was opened (attempt ${context.attempt})`);

  // To open a case, set on the function, and deploy it:
  //   settings.environment    CRM_URL = https://crm.example.com/cases
  //   settings.allowed_hosts  crm.example.com  (any other host is refused)
  const crmUrl = process.env.CRM_URL;
  if (!crmUrl) {
    return { sent: false, ticket };
  }

  // A run that reaches its timeout is stopped, so look before a slow call.
  if (context.getRemainingTimeMs() < 100) {
    throw new Error("too little time left to call the CRM");
  }
  const response = await fetch(crmUrl, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(ticket),
  });
  if (!response.ok) {
    throw new Error(`the CRM answered ${response.status}`);
  }
  return { sent: true, ticket };
}
