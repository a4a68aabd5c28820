// Tells the witness what runs, and behaves as its event says.
const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

async function lambda(input, context) {
  const { kind, mark } = input.payload;
  const tell = async (ordinal) => {
    const body = {
      account: context.account,
      conversation: context.conversationId,
      event: context.eventId,
      ordinal,
      mark,
      canary: process.env.CANARY,
    };
    const url = `${process.env.WITNESS}/${context.attempt}/${Date.now()}`;
    const answer = await fetch(url, { method: 'POST', body: JSON.stringify(body) });
    if (!answer.ok) throw new Error(`the witness answered ${answer.status}`);
  };
  await tell(0);
  if (kind === 'poison' || (kind === 'flaky' && context.attempt === 1)) throw new Error(`${kind} by design`);
  if (kind === 'crasher') {
    await pause(context.getRemainingTimeMs() - 200);
    throw new Error('nothing was killed');
  }
  if (kind === 'slow') await pause(300);
  await tell(1);
}
