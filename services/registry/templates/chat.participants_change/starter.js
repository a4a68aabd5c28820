/**
 * Chat Participants Change: somebody joined or left a chat. Runs any number of times per conversation, in
 * the order in which the changes happened.
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
  const { chatSessionKey, participantChange, cause } = input.payload;
  const { oldParticipants, newParticipants } = participantChange;

  const joined = without(newParticipants, oldParticipants);
  const left = without(oldParticipants, newParticipants);
  const assigned = newParticipants.find(({ role }) => role === "ASSIGNED_AGENT");
  const change = {
    chat: chatSessionKey,
    cause: cause ?? null,
    joined: joined.map(describe),
    left: left.map(describe),
    assignedAgent: assigned?.id ?? null,
  };

  console.info(`chat ${chatSessionKey}: +${change.joined.length} -${change.left.length} participants`);
  if (!assigned) {
    console.warn("nobody is assigned to this chat now");
  }

  // Keep it short: when this run takes longer than about a second, the agent may answer before whatever
  // it triggers has happened. context.getRemainingTimeMs() tells what is left.
  console.debug(`${context.getRemainingTimeMs()} ms left`);

  // To tell another system, allow its host in settings.allowed_hosts (any other host is refused), keep
  // its address in settings.environment, and call fetch(process.env.CRM_URL, { method: "POST", ... }).
  return change;
}

/** Participants of `list` who are not in `others`. */
function without(list, others) {
  const known = new Set(others.map(describe));
  return list.filter((participant) => !known.has(describe(participant)));
}

function describe({ id, role }) {
  return `${role} ${id}`;
}
