/**
 * Messaging Consumer Step Up: a consumer has signed in during a conversation. Runs each time.
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
  const { general } = input.payload;

  const consumer = {
    conversation: general.convId,
    // The id of the consumer who is known now, the same over all of their sessions.
    consumer: general.originatorPid ?? null,
    language: general.clientLanguage ?? null,
  };
  console.info(`conversation ${general.convId}: the consumer has signed in`);

  // To connect the case with the customer, set on the function, and deploy it:
  //   settings.environment    CRM_URL = https://crm.example.com/customers
  //   settings.allowed_hosts  crm.example.com  (any other host is refused)
  const crmUrl = process.env.CRM_URL;
  if (!crmUrl) {
    return { sent: false, consumer };
  }

  // A run that reaches its timeout is stopped, so look before a slow call.
  if (context.getRemainingTimeMs() < 100) {
    throw new Error("too little time left to call the CRM");
  }
  const response = await fetch(crmUrl, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(consumer),
  });
  if (!response.ok) {
    throw new Error(`the CRM answered ${response.status}`);
  }
  return { sent: true, consumer };
}
