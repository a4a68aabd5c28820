// The toolbelt of the hosted product, as far as chatfn has a counterpart. The files 86 to 89 add the members that
// work; those that do not are listed here, and say so when they are called.

// Longer than any run.
const MAX_MILLIS = 3_600_000;

const PREFIX = 'com.liveperson.faas.';

const prefixed = (codes) => Object.fromEntries(Object.entries(codes).map(([name, code]) =>
  [name, typeof code === 'string' ? PREFIX + code : prefixed(code)]));

const ErrorCodes = prefixed({
  Secret: {
    Invalid: 'secret.invalid-format',
    Failure: 'secret.op-failed',
    Timeout: 'secret.op-timed-out',
    NotFound: 'secret.not-found',
    AuthFailure: 'secret.auth-failed',
    SystemSecret: 'secret.forbidden',
  },
  LpClient: {
    Creds: {
      Format: 'lp-client.credentials-wrong-format',
      Failure: 'lp-client.get-credentials-failure',
    },
  },
  Csds: { NotFound: 'csds.domain.not-found', Failure: 'csds.op-failed' },
  ConversationUtil: {
    General: 'conversation-util-general',
    NotFound: 'conversation-util.conversation.not-found',
    UnexpectedResponse: 'conversation-util.unexpected-response',
    Timeout: 'conversation-util.timeout',
  },
  OrchestratorFN: {
    General: 'orchestrator-fn-general',
    Timeout: 'orchestrator-fn.invoke.timeout',
    Invocation: { StatusError: 'orchestrator-fn.invoke.status-code-error' },
  },
  // This one is chatfn's own.
  NotOffered: 'toolbelt.not-offered',
});

class ToolBeltError extends Error {
  constructor(component, code, message, options) {
    super(message, options);
    this.name = 'ToolBeltError';
    this.component = component;
    this.code = code;
  }
}

// Members are called as factories in older sources and as classes in newer ones. A plain function that returns an
// object is both.
const Toolbelt = {};
const exported = { Toolbelt, ToolBeltError, ErrorCodes };

chatfn.toolbelt = {
  ErrorCodes,
  ToolBeltError,
  addMembers: (members) => {
    Object.assign(Toolbelt, members);
    Object.assign(exported, members);
  },
  addConstants: (constants) => Object.assign(exported, constants),
  // A duration that an author gave, as the host takes it.
  toMillis: (value, fallback) => {
    const millis = Math.ceil(Number(value));
    return millis > 0 ? Math.min(millis, MAX_MILLIS) : fallback;
  },
};

const NOT_OFFERED = {
  ContextServiceClient: 'keep state in a service of your own and call that with fetch',
  CsdsClient: 'LpClient finds a service by its name',
  GDPRUtil: 'call the file storage with fetch',
  LPMtlsClient: 'client certificates are not supported; let a gateway present the certificate and call that with fetch',
  MTLSClient: 'client certificates are not supported; let a gateway present the certificate and call that with fetch',
  SDEUtil: "call the service's API with LpClient or fetch",
  SFClient: "call Salesforce's REST API with fetch",
};

chatfn.toolbelt.notOffered = (what, instead) =>
  new ToolBeltError('Toolbelt', ErrorCodes.NotOffered, `chatfn does not offer ${what}: ${instead}`);

chatfn.toolbelt.addMembers(Object.fromEntries(Object.entries(NOT_OFFERED).map(([name, instead]) =>
  [name, function () { throw chatfn.toolbelt.notOffered(name, instead); }])));

chatfn.toolbelt.exports = () => exported;
