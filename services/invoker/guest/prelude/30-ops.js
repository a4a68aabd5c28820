// Operations that the host carries out. A request is a JSON header and a body; so is an answer.
// Layout: four bytes with the header's length, little endian, then the header, then the body.

const pending = new Map(); // id -> { what, stack, resolve, reject }

// Answers of the host to a start.
const TOO_MANY = -1;
const TOO_LARGE = -3;

const { stringify } = JSON;
const toWellFormed = Function.prototype.call.bind(String.prototype.toWellFormed);

// JSON for the host, which refuses lone surrogates: they are replaced, as the standards say of text that goes out.
chatfn.toHostJson = (value) => stringify(value, (key, it) => (typeof it === 'string' ? toWellFormed(it) : it));

const encode = (header, body) => {
  const head = host.encode(chatfn.toHostJson(header));
  const request = new Uint8Array(4 + head.length + (body === null ? 0 : body.length));
  new DataView(request.buffer).setUint32(0, head.length, true);
  request.set(head, 4);
  if (body !== null) request.set(body, 4 + head.length);
  return request;
};

const { defineProperty } = Object;

// `stack` is that of the start: where the answer arrives, nothing of the author's is on the stack.
const toError = ({ name, message, code }, stack) => {
  const isDom = name === 'AbortError' || name === 'TimeoutError';
  const error = isDom ? new DOMException(message, name) : new TypeError(message);
  const own = { writable: true, configurable: true };
  defineProperty(error, 'stack', { value: stack, ...own });
  if (name && !isDom) defineProperty(error, 'name', { value: name, ...own });
  if (code) error.code = code;
  return error;
};

// Starts an operation: { id, promise of { header, body } }.
chatfn.startOp = (what, kind, header, body) => {
  const id = host.startOp(kind, encode(header, body));
  if (id <= 0) {
    const why = id === TOO_MANY ? 'too many operations at once; await some before starting more'
      : id === TOO_LARGE ? 'its body, with those of the operations under way, is too large; await some first or send less'
        : 'the request is not valid; its URL and headers may have at most 64 KiB';
    throw new TypeError(`${what}: ${why}`);
  }
  const { stack } = new Error();
  const promise = new Promise((resolve, reject) => pending.set(id, { what, stack, resolve, reject }));
  return { id, promise };
};

chatfn.cancelOp = (id, reason) => {
  const op = pending.get(id);
  if (op === undefined) return;
  pending.delete(id);
  host.cancelOp(id);
  op.reject(reason);
};

// The result of an operation, which is cancelled when the signal is aborted first.
chatfn.untilAborted = async ({ id, promise }, signal) => {
  const abort = () => chatfn.cancelOp(id, signal.reason);
  signal.addEventListener('abort', abort);
  try {
    return await promise;
  } finally {
    signal.removeEventListener('abort', abort);
  }
};

chatfn.opDone = (id) => {
  const buffer = host.takeOp(id);
  const op = pending.get(id);
  if (op === undefined) return;
  pending.delete(id);
  const size = new DataView(buffer).getUint32(0, true);
  const [head] = host.decodePrefix(new Uint8Array(buffer, 4, size));
  const header = JSON.parse(head);
  if (header.error !== undefined) op.reject(toError(header.error, op.stack));
  else op.resolve({ header, body: new Uint8Array(buffer, 4 + size) });
};

// What is said of the operations that a lambda leaves behind is the platform's word: it must not pass
// through what the lambda can replace.
const forEach = Function.prototype.call.bind(Map.prototype.forEach);

chatfn.warnOfPendingOps = () => forEach(pending, ({ what }) => {
  chatfn.log('warn', `${what} was still pending when the lambda ended, and is cancelled: await it`);
});
