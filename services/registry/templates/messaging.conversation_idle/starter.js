/**
 * Messaging Conversation Idle: nobody takes a conversation, or somebody is silent in it. Runs each time.
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
  const { general, idle } = input.payload;

  const silent = whoIsSilent(general.cbotEventType, idle);
  const alert = {
    conversation: general.convId,
    silent: silent.who,
    since: silent.for ? `${silent.for.time} ${silent.for.timeUnits}` : null,
    // The consumer waits for us, and not the other way round.
    urgent: silent.who !== "consumer",
  };
  if (alert.urgent) {
    console.warn(`conversation ${general.convId}: no answer from the ${silent.who}`);
  }

  // To alert somebody, set on the function, and deploy it:
  //   settings.environment    CRM_URL = https://crm.example.com/alerts
  //   settings.allowed_hosts  crm.example.com  (any other host is refused)
  const crmUrl = process.env.CRM_URL;
  if (!crmUrl) {
    return { sent: false, alert };
  }

  // A run that reaches its timeout is stopped, so look before a slow call.
  if (context.getRemainingTimeMs() < 100) {
    throw new Error("too little time left to call the CRM");
  }
  const response = await fetch(crmUrl, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(alert),
  });
  if (!response.ok) {
    throw new Error(`the CRM answered ${response.status}`);
  }
  return { sent: true, alert };
}

/** The payload may tell all three times: the kind of the event says which of them it is about. */
function whoIsSilent(kind, idle) {
  switch (kind) {
    case "AGENT_NON_RESPONSIVE":
      return { who: "agent", for: idle.agentNonResponsive };
    case "CONSUMER_NON_RESPONSIVE":
      return { who: "consumer", for: idle.consumerNonResponsive };
    default:
      return { who: "queue", for: idle.convNotTakenTime };
  }
}
