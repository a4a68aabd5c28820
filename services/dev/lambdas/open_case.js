// Opens a case in the CRM for a consumer who waits in the queue.
// CRM_URL is one of the function's environment variables; its host must be in allowed_hosts.
async function lambda(input, context) {
  const chat = input.payload;
  const response = await fetch(`${process.env.CRM_URL}/cases`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      subject: `Chat waiting on ${chat.chatStartPageURL}`,
      chatSessionKey: chat.chatSessionKey,
      campaignId: chat.campaignId,
      engagementId: chat.engagementId,
      survey: chat.preChatSurveyStructure?.header,
      answerWithinSeconds: chat.ttr?.newTtr?.value,
    }),
  });
  if (!response.ok) {
    throw new Error(`the CRM answered ${response.status}`);
  }
  const { id } = await response.json();
  console.info(`opened ${id}, ${context.getRemainingTimeMs()} ms left`);
  return { caseId: id };
}
