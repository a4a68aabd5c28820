/**
 * Chat Start: a chat was assigned to an agent for the first time. Runs once per conversation; use the
 * template chat.participants_change to hear of later assignments.
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
  const { chatSessionKey, agentId, agentName, skillName, duration } = input.payload;

  // How long the consumer had waited when an agent took the chat.
  const waitedSeconds = duration ?? null;
  // Environment variables (settings.environment) are strings; they are no place for secrets.
  const targetSeconds = Number(process.env.WAIT_TARGET_SECONDS ?? 60);
  const assignment = {
    chat: chatSessionKey,
    agent: agentId ?? null,
    skill: skillName ?? null,
    waitedSeconds,
    withinTarget: waitedSeconds === null ? null : waitedSeconds <= targetSeconds,
  };

  console.info(`chat ${chatSessionKey} was taken by ${agentName ?? agentId ?? "an agent"}`);
  if (assignment.withinTarget === false) {
    console.warn(`the consumer waited ${waitedSeconds} s; the target is ${targetSeconds} s`);
  }

  // To tell another system, allow its host in settings.allowed_hosts (any other host is refused):
  //
  //   await fetch("https://crm.example.com/assignments", {
  //     method: "POST",
  //     headers: { "content-type": "application/json" },
  //     body: JSON.stringify(assignment),
  //   });
  //
  // The call must fit into the time that is left:
  console.debug(`${context.getRemainingTimeMs()} ms left`);
  return assignment;
}
