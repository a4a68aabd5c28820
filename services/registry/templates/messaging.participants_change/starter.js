/**
 * Messaging Participants Change: somebody joined or left. Runs each time, in the order of the changes.
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
  const { general, participantChange } = input.payload;
  const { oldParticipants, newParticipants } = participantChange;

  const change = {
    conversation: general.convId,
    joined: without(newParticipants, oldParticipants),
    left: without(oldParticipants, newParticipants),
    assignedAgent: newParticipants.find(({ role }) => role === "ASSIGNED_AGENT")?.id ?? null,
  };
  console.info(`conversation ${general.convId}: +${change.joined.length} -${change.left.length} participants`);

  // To keep the CRM's list of who takes part, set on the function, and deploy it:
  //   settings.environment    CRM_URL = https://crm.example.com/participants
  //   settings.allowed_hosts  crm.example.com  (any other host is refused)
  const crmUrl = process.env.CRM_URL;
  if (!crmUrl) {
    return { sent: false, change };
  }

  // A run that reaches its timeout is stopped, so look before a slow call.
  if (context.getRemainingTimeMs() < 100) {
    throw new Error("too little time left to call the CRM");
  }
  const response = await fetch(crmUrl, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(change),
  });
  if (!response.ok) {
    throw new Error(`the CRM answered ${response.status}`);
  }
  return { sent: true, change };
}

/** Participants of `list` who are not in `others`. */
function without(list, others) {
  const known = new Set(others.map(describe));
  return list.map(describe).filter((participant) => !known.has(participant));
}

function describe({ id, role }) {
  return `${role} ${id}`;
}
