// Calls the lambda. An async function gets (input, context, context) and its promise is the result. Any
// other function gets (input, callback, context), where `callback` also has the properties of the context,
// so that either reading of the second parameter works; its result is what it returns or hands to the
// callback, whichever comes first. One of two or more parameters that returns nothing must call it; any other that
// returns nothing may, if it has kept it.

// Own properties and no methods: what the platform says of a result must not pass through what the lambda can
// replace.
const { hasOwn } = Object;
const { isArray } = Array;
const COMMANDS = { __proto__: null, systemMessage: true, transfer: true, closeConversation: true };
const MAX_COMMANDS = 1000;

const makeContext = (fields) => {
  fields.getRemainingTimeMs = () => host.remaining();
  return Object.freeze(fields);
};

// Set while the result depends on the callback alone.
let awaitsCallback = false;
// Set while it may: ends the run once nothing is left that could still call it.
let endWithout = null;

const deref = Function.prototype.call.bind(WeakRef.prototype.deref);

const isThenable = (value) => value !== null && (typeof value === 'object' || typeof value === 'function')
  && typeof value.then === 'function';

const callWithCallback = (lambda, input, context) => {
  let called = false;
  let callback;
  let resolveOutcome;
  const outcome = new Promise((resolve, reject) => {
    resolveOutcome = resolve;
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
  if (returned !== undefined) return returned;
  if (lambda.length >= 2) {
    awaitsCallback = true;
    return outcome;
  }
  // Its length does not tell whether such a function takes the callback: `(...args) =>`, `(input, callback = noop) =>`
  // and what `_.once` makes have none to tell of. But references are counted: unless the lambda has kept the callback, in
  // whatever way, the last one is ours. Then nobody can call it, and nothing is waited for.
  const kept = new WeakRef(callback);
  callback = undefined;
  if (deref(kept) === undefined) return undefined;
  endWithout = resolveOutcome;
  return outcome;
};

chatfn.invoke = (lambda, input, fields, env) => {
  chatfn.setEnv(env);
  const context = makeContext(fields);
  if (host.isAsync(lambda)) return lambda(input, context, context);
  return callWithCallback(lambda, input, context);
};

// Called when nothing is left to wait for: why that is a failure, or null when it is none.
chatfn.whyPending = () => {
  if (endWithout !== null) {
    endWithout();
    endWithout = null;
    return null;
  }
  return awaitsCallback
    ? 'the lambda returned nothing and never called its callback'
    : 'the promise of the lambda never settles: no request and no timer is left that could settle it';
};

const isObject = (value) => value !== null && typeof value === 'object';

const isCommand = (value) => isObject(value) && hasOwn(value, 'type') && COMMANDS[value.type] === true;

const holdsCommand = (list) => {
  for (let i = 0; i < list.length && i < MAX_COMMANDS; i++) if (isCommand(list[i])) return true;
  return false;
};

const returnsCommands = (result) => {
  if (isArray(result)) return holdsCommand(result);
  return isCommand(result) || (isObject(result) && hasOwn(result, 'commands') && isArray(result.commands) && holdsCommand(result.commands));
};

chatfn.onResult = (result) => {
  if (returnsCommands(result)) {
    chatfn.log('warn', 'chat events accept no commands; what the lambda returned is recorded and nothing is sent to the chat');
  }
  chatfn.warnOfPendingOps();
};
