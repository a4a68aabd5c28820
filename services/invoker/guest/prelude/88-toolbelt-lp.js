// LpClient and ConversationUtil: the chat platform's own APIs, at the address that the operator has set.

const { Headers, crypto, fetch } = globalThis;
const { ErrorCodes, ToolBeltError, addConstants, addMembers, readSecret } = chatfn.toolbelt;

const OP_LOCATE_SERVICE = 4;
// The name of this secret in the hosted product.
const DEFAULT_APP_KEY = 'lp-faas-default-app-key';

const LpServices = {
  ACCOUNT_CONFIG_READ_ONLY: 'accountConfigReadOnly',
  ACCOUNT_CONFIG_READ_WRITE: 'accountConfigReadWrite',
  AGENT_VEP: 'agentVep',
  ASYNC_MESSAGING: 'asyncMessaging',
  ASYNC_MESSAGING_ENT: 'asyncMessagingEnt',
  AUDIT_LOG: 'auditLog',
  ENG_HIST_DOMAIN: 'engHistDomain',
  LE_DATA_REPORTING: 'leDataReporting',
  MSG_EWT_API: 'msgEwtAPI',
  MSG_HIST: 'msgHist',
  MSDKGW: 'msdkgw',
  PUSHER: 'pusher',
  RTBF: 'rtbf',
  SMT: 'smt',
};

const locate = async (service) => {
  try {
    const op = chatfn.startOp(`locate ${service}`, OP_LOCATE_SERVICE, { service: String(service) }, null);
    return (await op.promise).header;
  } catch (cause) {
    const code = cause.code === 'SERVICE_NAME_INVALID' ? ErrorCodes.Csds.NotFound : ErrorCodes.Csds.Failure;
    throw new ToolBeltError('LpClient', code, cause.message, { cause });
  }
};

const bearer = async (secretName, useCache) => {
  let value;
  try {
    ({ value } = await readSecret(secretName, { useCache }));
  } catch (cause) {
    const message = `cannot read the secret ${secretName}: ${cause.message}`;
    throw new ToolBeltError('LpClient', ErrorCodes.LpClient.Creds.Failure, message, { cause });
  }
  if (/^[\x21-\x7e]+$/.test(value)) return `Bearer ${value}`;
  throw new ToolBeltError('LpClient', ErrorCodes.LpClient.Creds.Format,
    `the secret ${secretName} cannot be a bearer token: it must be one word of printable ASCII`);
};

const join = (url, path) => `${url}/${String(path).replace(/^\/+/, '')}`;

const call = async (url, { appKeySecretName, ...init }) => {
  const headers = new Headers(init.headers);
  if (!headers.has('x-request-id')) headers.set('x-request-id', crypto.randomUUID());
  if (appKeySecretName === undefined) return fetch(url, { ...init, headers });

  const authorization = await bearer(appKeySecretName, true);
  headers.set('authorization', authorization);
  const response = await fetch(url, { ...init, headers });
  if (response.status !== 401) return response;
  // The token may have been replaced a moment ago.
  const renewed = await bearer(appKeySecretName, false);
  if (renewed === authorization) return response;
  headers.set('authorization', renewed);
  return fetch(url, { ...init, headers });
};

// The value of the secret is sent as it is, as a bearer token.
function LpClient() {
  return (service, path, init) => {
    chatfn.onlyInRuns('LpClient');
    return locate(service).then(({ url }) => call(join(url, path), init ?? {}));
  };
}

const newError = (code, message, options) => new ToolBeltError('Conversation-Util', code, message, options);

const isConversation = (it) => it !== null && typeof it === 'object' && Array.isArray(it.conversationHistoryRecords);

// An account without the default key may have a gateway that needs none.
const withDefaultKey = async (request) => {
  try {
    return await request(DEFAULT_APP_KEY);
  } catch (error) {
    if (error.cause?.code === ErrorCodes.Secret.NotFound) return request(undefined);
    throw error;
  }
};

const getConversation = async (id, contentTypes, appKeySecretName) => {
  const { url, account } = await locate(LpServices.MSG_HIST);
  const path = `messaging_history/api/account/${account}/conversations/conversation/search?v=2&source=chatfn`;
  const body = JSON.stringify({
    conversationId: id,
    contentToRetrieve: contentTypes?.length > 0 ? contentTypes : undefined,
  });
  const request = (key) => call(join(url, path), {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body,
    appKeySecretName: key,
  });
  let response;
  try {
    response = await (appKeySecretName === undefined ? withDefaultKey(request) : request(appKeySecretName));
  } catch (cause) {
    if (cause instanceof ToolBeltError) throw cause;
    const code = cause?.name === 'TimeoutError' ? ErrorCodes.ConversationUtil.Timeout : ErrorCodes.ConversationUtil.General;
    throw newError(code, `cannot read the conversation ${id}: ${cause.message}`, { cause });
  }
  const conversation = await response.json().catch(() => null);
  if (!response.ok || !isConversation(conversation)) {
    throw newError(ErrorCodes.ConversationUtil.UnexpectedResponse,
      `the answer for the conversation ${id} is not a conversation; its status is ${response.status}`);
  }
  if (conversation.conversationHistoryRecords.length === 0) {
    throw newError(ErrorCodes.ConversationUtil.NotFound, `there is no conversation ${id}`);
  }
  return conversation;
};

const textOf = ({ type, messageData }) => {
  if (type === 'TEXT_PLAIN') return messageData?.msg?.text ?? '';
  return type === 'HOSTED_FILE' ? messageData?.file?.caption ?? '' : '';
};

const scan = (conversation, keywords) => {
  const records = conversation?.conversationHistoryRecords?.[0]?.messageRecords;
  if (!Array.isArray(records)) {
    throw newError(ErrorCodes.ConversationUtil.General, 'the conversation has no messageRecords; ask getConversationById for them');
  }
  if (!Array.isArray(keywords) || keywords.length === 0) {
    throw newError(ErrorCodes.ConversationUtil.General, 'the second argument must be an array of keywords');
  }
  const messages = records.map((record) => {
    const message = textOf(record);
    return { message, lowered: message.toLowerCase(), sentTimestamp: record.timeL, sentBy: record.sentBy };
  });
  return keywords.flatMap((keyword) => {
    const wanted = String(keyword).toLowerCase();
    return messages
      .filter(({ lowered }) => lowered.includes(wanted))
      .map(({ message, sentTimestamp, sentBy }) => ({ message, sentTimestamp, sentBy, tag: `keywordRef:${keyword}` }));
  });
};

function ConversationUtil({ appKeySecretName } = {}) {
  return Object.freeze({
    getConversationById(id, contentTypes) {
      chatfn.onlyInRuns('ConversationUtil.getConversationById');
      if (!id) throw newError(ErrorCodes.ConversationUtil.General, 'the first argument must be the id of a conversation');
      return getConversation(String(id), contentTypes, appKeySecretName);
    },
    scanConversationForKeywords: scan,
  });
}

// unAuthSdes is UNAUTH_SDES and coBrowseSessions COBROWSE_SESSIONS in the hosted product; all others go word by word.
const constantName = (type) =>
  type.replace('unAuth', 'unauth').replace('coBrowse', 'cobrowse').replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase();

const ConversationContentTypes = Object.fromEntries([
  'info', 'sdes', 'unAuthSdes', 'campaign', 'messageRecords', 'agentParticipants', 'agentParticipantsActive',
  'consumerParticipants', 'transfers', 'interactions', 'messageScores', 'messageStatuses', 'skillChanges',
  'conversationSurveys', 'agentParticipantsLeave', 'coBrowseSessions', 'summary', 'monitoring', 'dialogs',
  'responseTime', 'intents', 'uniqueIntents', 'latestAgentSurvey', 'previouslySubmittedAgentSurveys',
].map((type) => [constantName(type), type]));

addMembers({ LpClient, ConversationUtil });
addConstants({ ConversationContentTypes, LpServices });
