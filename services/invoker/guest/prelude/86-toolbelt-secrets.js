// SecretClient: the account's secrets. Values come from the host at the time of reading.

const { ErrorCodes, ToolBeltError, addMembers, notOffered } = chatfn.toolbelt;

const OP_READ_SECRET = 2;
const DEFAULT_TIMEOUT_MS = 5000;

// Of the host's reasons; any other is a failure.
const CODES = {
  SECRET_KEY_INVALID: ErrorCodes.Secret.Invalid,
  SECRET_NOT_FOUND: ErrorCodes.Secret.NotFound,
  SECRET_TIMED_OUT: ErrorCodes.Secret.Timeout,
  SECRET_REFUSED: ErrorCodes.Secret.AuthFailure,
};

const toSecretError = (cause) =>
  new ToolBeltError('Secret', CODES[cause.code] ?? ErrorCodes.Secret.Failure, cause.message, { cause });

const read = async (key, useCache, timeoutMs) => {
  try {
    const header = { key, useCache, timeoutMs };
    const { body } = await chatfn.startOp(`readSecret ${key}`, OP_READ_SECRET, header, null).promise;
    return { key, value: chatfn.decodeUtf8(body) };
  } catch (error) {
    throw toSecretError(error);
  }
};

// Thrown, not a rejection, at top level: code that does not await it would be deployed.
chatfn.toolbelt.readSecret = (key, { useCache = true, timeout = DEFAULT_TIMEOUT_MS } = {}) => {
  chatfn.onlyInRuns('SecretClient.readSecret');
  return read(String(key), Boolean(useCache), chatfn.toolbelt.toMillis(timeout, DEFAULT_TIMEOUT_MS));
};

function SecretClient() {
  return Object.freeze({
    readSecret: chatfn.toolbelt.readSecret,
    updateSecret() {
      throw notOffered('SecretClient.updateSecret', 'an admin sets secrets, with SecretService.SetSecret');
    },
    getUsedSecrets() {
      throw notOffered('SecretClient.getUsedSecrets', 'keep what readSecret gives you');
    },
  });
}

addMembers({ SecretClient });
