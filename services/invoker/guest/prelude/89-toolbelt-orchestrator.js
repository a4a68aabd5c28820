// OrchestratorClient: runs other functions of the account, each in a sandbox of its own, within what is left of this
// run's time.

const { AbortController, clearTimeout, setTimeout } = globalThis;
const { ErrorCodes, ToolBeltError, addConstants, addMembers, toMillis } = chatfn.toolbelt;

const OP_INVOKE_FUNCTION = 3;
const DEFAULT_DEADLINE_MS = 25_000;
const DEFAULT_RETRIES = 3;
const RETRIED_STATUSES = [429, 500, 502, 504];

const ErrorStrategy = { EXIT_ON_ERROR: 'ExitOnError', CONTINUE_ON_ERROR: 'ContinueOnError' };

const newError = (code, message, options) => new ToolBeltError('OrchestratorFN', code, message, options);

// Numbers the invocations of this run. Retries keep the number, and so do retries of the event as long as the lambda
// invokes in the same order: what the other function writes outside carries the same idempotency keys.
let invoked = 0;

const sleep = (ms, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener('abort', () => {
    clearTimeout(timer);
    reject(signal.reason);
  }, { once: true });
});

const toStatusError = ({ function: name, status, reason, name: errorName, message }) => {
  const text = errorName === '' ? message : `${errorName}: ${message}`;
  const error = newError(ErrorCodes.OrchestratorFN.Invocation.StatusError, `${name} failed with ${status}: ${text}`);
  return Object.assign(error, { statusCode: status, reason, headers: {}, originalError: { code: reason, message: text } });
};

const attempt = async (invocation, ordinal, timeout, signal) => {
  const { uuid, headers, payload } = invocation;
  const header = {
    function: String(uuid),
    ordinal,
    headers: Object.entries(headers ?? {}).map(([key, value]) => [key, String(value)]),
    timeoutMs: timeout,
  };
  signal.throwIfAborted();
  const payloadJson = host.encode(JSON.stringify(payload) ?? 'null');
  const op = chatfn.startOp(`invoke ${uuid}`, OP_INVOKE_FUNCTION, header, payloadJson);
  const { header: answer, body } = await chatfn.untilAborted(op, signal);
  if (answer.failure !== undefined) throw toStatusError({ function: uuid, ...answer.failure });
  return chatfn.decodeUtf8(body);
};

const isRetried = (statusCode) => RETRIED_STATUSES.includes(statusCode);

const toFailedResponse = (uuid, error) => ({
  uuid,
  statusCode: error.statusCode,
  headers: error.headers,
  body: error.originalError,
  error: { code: error.code ?? error.name, message: error.message },
});

const invokeOne = async (invocation, ordinal, { timeout, json, errorStrategy }, signal) => {
  const { uuid, retryFunction = isRetried } = invocation;
  const retries = invocation.retries || DEFAULT_RETRIES;
  for (let count = 1; ; count++) {
    try {
      const text = await attempt(invocation, ordinal, timeout, signal);
      return { uuid, statusCode: 200, headers: { 'content-type': 'application/json' }, body: json ? JSON.parse(text) : text };
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      if (count >= retries || !retryFunction(error.statusCode, error)) {
        if (errorStrategy === ErrorStrategy.EXIT_ON_ERROR) throw error;
        return toFailedResponse(uuid, error);
      }
      await sleep(count * 100, signal);
    }
  }
};

const checkInvocations = (invocations) => {
  if (!Array.isArray(invocations) || invocations.some((it) => typeof it?.uuid !== 'string' || it.uuid === '')) {
    throw newError(ErrorCodes.OrchestratorFN.General, 'invoke takes an array of { uuid, payload }, where uuid is the '
      + "template of a function of this account, such as 'chat.end', or its resource name");
  }
};

const toSettings = (count, deadline, options) => {
  const { invokeParallel = false, errorStrategy = ErrorStrategy.EXIT_ON_ERROR, json = false } = options;
  if (!Object.values(ErrorStrategy).includes(errorStrategy)) {
    throw newError(ErrorCodes.OrchestratorFN.General, `errorStrategy must be one of ${Object.values(ErrorStrategy).join(', ')}`);
  }
  const share = invokeParallel ? deadline : Math.max(1, Math.floor(deadline / count));
  return { invokeParallel, errorStrategy, json, timeout: Math.min(toMillis(options.timeout, share), deadline) };
};

const invokeAll = async (invocations, deadline, settings) => {
  const numbered = invocations.map((invocation) => [invocation, invoked++]);
  const controller = new AbortController();
  const { signal } = controller;
  const timer = setTimeout(() => controller.abort(newError(ErrorCodes.OrchestratorFN.Timeout,
    `the invocations were not done within ${deadline} ms`)), deadline);
  const run = ([invocation, ordinal]) => invokeOne(invocation, ordinal, settings, signal);
  try {
    if (settings.invokeParallel) return await Promise.all(numbered.map(run));
    const responses = [];
    for (const next of numbered) responses.push(await run(next));
    return responses;
  } finally {
    clearTimeout(timer);
    // Ends those that still run, after the first that failed.
    controller.abort();
  }
};

function OrchestratorClient() {
  return Object.freeze({
    // Thrown, not a rejection, at top level: code that does not await it would be deployed.
    invoke(invocations, deadline = DEFAULT_DEADLINE_MS, options = {}) {
      chatfn.onlyInRuns('OrchestratorClient.invoke');
      const within = toMillis(deadline, DEFAULT_DEADLINE_MS);
      const start = async () => {
        checkInvocations(invocations);
        return invokeAll(invocations, within, toSettings(invocations.length, within, options ?? {}));
      };
      return start();
    },
  });
}

addMembers({ OrchestratorClient });
addConstants({ ErrorStrategy });
