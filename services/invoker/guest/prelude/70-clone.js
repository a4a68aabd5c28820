// structuredClone, without transferables.

const refuse = (what) => {
  throw new DOMException(`${what} cannot be cloned`, 'DataCloneError');
};

const ERRORS = { Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError };

const cloneError = (value, seen) => {
  const copy = new (Object.hasOwn(ERRORS, value.name) ? ERRORS[value.name] : Error)(value.message);
  seen.set(value, copy);
  if (value.cause !== undefined) copy.cause = clone(value.cause, seen);
  copy.stack = value.stack;
  return copy;
};

const cloneView = (value, seen) => {
  const buffer = clone(value.buffer, seen);
  const length = value instanceof DataView ? value.byteLength : value.length;
  const copy = new value.constructor(buffer, value.byteOffset, length);
  seen.set(value, copy);
  return copy;
};

const cloneObject = (value, seen) => {
  if (value instanceof Date) return new Date(value.getTime());
  if (value instanceof RegExp) return new RegExp(value.source, value.flags);
  if (value instanceof Boolean || value instanceof Number || value instanceof String) return Object(value.valueOf());
  if (value instanceof Error) return cloneError(value, seen);
  if (value instanceof ArrayBuffer) {
    const copy = value.slice(0);
    seen.set(value, copy);
    return copy;
  }
  if (ArrayBuffer.isView(value)) return cloneView(value, seen);
  if (value instanceof Map) {
    const copy = new Map();
    seen.set(value, copy);
    for (const [key, item] of value) copy.set(clone(key, seen), clone(item, seen));
    return copy;
  }
  if (value instanceof Set) {
    const copy = new Set();
    seen.set(value, copy);
    for (const item of value) copy.add(clone(item, seen));
    return copy;
  }
  if (value instanceof Promise || value instanceof WeakMap || value instanceof WeakSet || value instanceof WeakRef) {
    refuse(`a ${value.constructor.name}`);
  }
  const copy = Array.isArray(value) ? new Array(value.length) : {};
  seen.set(value, copy);
  for (const key of Object.keys(value)) copy[key] = clone(value[key], seen);
  return copy;
};

const clone = (value, seen) => {
  if (typeof value === 'function' || typeof value === 'symbol') refuse(`a ${typeof value}`);
  if (typeof value !== 'object' || value === null) return value;
  return seen.get(value) ?? cloneObject(value, seen);
};

chatfn.define('structuredClone', (value, { transfer = [] } = {}) => {
  if (transfer.length > 0) throw new DOMException('structuredClone cannot transfer objects here', 'DataCloneError');
  return clone(value, new Map());
});
