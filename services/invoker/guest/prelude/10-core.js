// Every file of the prelude is a function of (host, chatfn): `host` holds the functions of shim.c,
// `chatfn` is the object that these files share and that shim.c calls into. Nothing of either is
// reachable from a lambda.

// A global as the language's own are: not enumerable, and free to be replaced or shadowed.
chatfn.define = (name, value) => {
  Object.defineProperty(globalThis, name, { value, writable: true, enumerable: false, configurable: true });
};

chatfn.defineAll = (values) => {
  for (const name of Object.keys(values)) chatfn.define(name, values[name]);
};

class ForbiddenAtTopLevelError extends Error {
  constructor(what) {
    super(`${what} is not available in top-level code: that runs once, when the function is deployed, and what it ` +
      'draws would be the same in every run. Move the call into the lambda.');
    this.name = 'ForbiddenAtTopLevelError';
    this.what = what;
  }
}

class ForbiddenImportError extends Error {
  constructor(specifier, available) {
    super(`there is no module '${specifier}'; available: ${available.join(', ')}`);
    this.name = 'ForbiddenImportError';
    this.code = 'MODULE_NOT_FOUND';
    this.specifier = specifier;
    this.available = available;
  }
}

chatfn.ForbiddenImportError = ForbiddenImportError;

chatfn.forbid = (what) => {
  throw new ForbiddenAtTopLevelError(what);
};

chatfn.onlyInRuns = (what) => {
  if (!host.isRunning()) chatfn.forbid(what);
};

// Our own frames mean nothing to an author, nor does the place in a text that JSON.parse puts on the stack.
const isForeign = (line) => line === '' || line.includes('(chatfn:') || line.includes('at <input>:');
chatfn.cleanStack = (stack) => String(stack).split('\n').filter((line) => !isForeign(line)).join('\n');
const { cleanStack } = chatfn;

const { AggregateError } = globalThis;
const { isArray } = Array;

// Of what is told with an error, causes and the errors that it stands for: levels, and how many in all.
const MAX_CAUSES = 4;
const MAX_TOLD = 10;

let told = 0; // of MAX_TOLD
let describing = 0; // calls of describeThrown from within one: an inner error may hold the outer one

const describeInner = (how, thrown, depth) => {
  told++;
  try {
    const [name, message, stack] = describeAny(thrown, depth + 1);
    return `\n${how} ${name}: ${message}${stack === '' ? '' : `\n${stack}`}`;
  } catch {
    // Not for its sake is the outer one left untold.
    return `\n${how} one that cannot be read`;
  }
};

const describeErrors = (errors, depth) => {
  let text = '';
  let i = 0;
  while (i < errors.length && told < MAX_TOLD) text += describeInner('one of its errors is', errors[i++], depth);
  return i === errors.length ? text : `${text}\n… ${errors.length - i} more of its errors`;
};

const describeError = (error, depth) => {
  let stack = cleanStack(error.stack ?? '');
  if (depth < MAX_CAUSES) {
    if (error.cause !== undefined && told < MAX_TOLD) stack += describeInner('caused by', error.cause, depth);
    if (error instanceof AggregateError && isArray(error.errors)) stack += describeErrors(error.errors, depth);
  }
  return [String(error.name), String(error.message), stack.startsWith('\n') ? stack.slice(1) : stack];
};

const describeAny = (thrown, depth) => {
  if (thrown instanceof Error || thrown instanceof DOMException) return describeError(thrown, depth);
  return ['Error', typeof thrown === 'string' ? thrown : chatfn.inspect(thrown), ''];
};

// [name, message, stack] of anything thrown.
chatfn.describeThrown = (thrown) => {
  if (describing++ === 0) told = 0;
  try {
    return describeAny(thrown, 0);
  } finally {
    describing--;
  }
};

// The kinds of shim.c.
const THROWN = 0;
const SYNTAX = 3;
const IMPORT = 5;
const TOP_LEVEL = 6;

// What to report of something thrown: [kind, name, message, stack].
chatfn.describe = (thrown, kind) => {
  try {
    if (!host.isRunning()) {
      if (thrown instanceof ForbiddenImportError) return [IMPORT, thrown.name, thrown.specifier, thrown.available.join(',')];
      if (thrown instanceof ForbiddenAtTopLevelError) return [TOP_LEVEL, thrown.name, thrown.what, cleanStack(thrown.stack)];
      if (kind === SYNTAX && !(thrown instanceof SyntaxError)) kind = THROWN;
    }
    return [kind, ...chatfn.describeThrown(thrown)];
  } catch {
    // A getter or a proxy that throws.
    return [kind, 'Error', 'an error that cannot be read was thrown', ''];
  }
};

// Rejected promises that nobody handles yet.
const rejections = new Map();

chatfn.onRejection = (promise, reason, handled) => {
  if (handled) rejections.delete(promise);
  else rejections.set(promise, reason);
};

chatfn.reportRejections = (awaited) => {
  for (const [promise, reason] of rejections) {
    if (promise === awaited) continue;
    const [, name, message, stack] = chatfn.describe(reason, THROWN);
    chatfn.log('error', `unhandled promise rejection: ${name}: ${message}${stack === '' ? '' : `\n${stack}`}`);
  }
  rejections.clear();
};
