// Calls the lambda. An async function gets (input, context, context) and its promise is the result. Any
// other function gets (input, callback, context), where `callback` also has the properties of the context,
// so that either reading of the second parameter works; its result is what it returns or hands to the
// callback, whichever comes first. A function with fewer than two parameters cannot be waiting for its
// callback, so nothing is waited for.

const COMMANDS = ['systemMessage', 'transfer', 'closeConversation'];

const makeContext = (fields) => {
  fields.getRemainingTimeMs = () => host.remaining();
  return Object.freeze(fields);
};

// Set while the result depends on the callback alone.
let awaitsCallback = false;

const isThenable = (value) => value !== null && (typeof value === 'object' || typeof value === 'function')
  && typeof value.then === 'function';

const callWithCallback = (lambda, input, context) => {
  let called = false;
  let callback;
  const outcome = new Promise((resolve, reject) => {
    callback = (error, result) => {
      called = true;
      if (error === undefined || error === null || error === false) resolve(result);
      else reject(error);
    };
  });
  for (const name of Object.keys(context)) {
    Object.defineProperty(callback, name, { value: context[name], enumerable: true });
  }
  let returned;
  try {
    returned = lambda(input, callback, context);
  } catch (error) {
    if (called) return outcome;
    throw error;
  }
  if (called) return outcome;
  if (isThenable(returned)) return Promise.race([outcome, returned]);
  if (returned !== undefined || lambda.length < 2) return returned;
  awaitsCallback = true;
  return outcome;
};

chatfn.invoke = (lambda, input, fields, env) => {
  chatfn.setEnv(env);
  const context = makeContext(fields);
  if (host.isAsync(lambda)) return lambda(input, context, context);
  return callWithCallback(lambda, input, context);
};

chatfn.whyPending = () => (awaitsCallback
  ? 'the lambda returned nothing and never called its callback'
  : 'the promise of the lambda never settles: no request and no timer is left that could settle it');

const isCommand = (value) => value !== null && typeof value === 'object' && COMMANDS.includes(value.type);

const returnsCommands = (result) => {
  if (result === null || typeof result !== 'object') return false;
  const commands = Array.isArray(result) ? result : [result, ...(Array.isArray(result.commands) ? result.commands : [])];
  return commands.some(isCommand);
};

chatfn.onResult = (result) => {
  if (returnsCommands(result)) {
    chatfn.log('warn', 'chat events accept no commands; what the lambda returned is recorded and nothing is sent to the chat');
  }
  for (const what of chatfn.pendingOps()) {
    chatfn.log('warn', `${what} was still pending when the lambda ended, and is cancelled: await it`);
  }
};
