// structuredClone, without transferables.

const refuse = (what) => {
  throw new DOMException(`${what} cannot be cloned`, 'DataCloneError');
};

const { AbortController, Blob, CryptoKey, EventTarget, Headers, URL, URLSearchParams } = globalThis;
const { defineProperty } = Object;

// What they hold is out of reach: a copy would have nothing of it.
const OPAQUE = [
  Promise, WeakMap, WeakSet, WeakRef, AbortController, Blob, chatfn.Body, CryptoKey, EventTarget, Headers, URL, URLSearchParams,
];

const ERRORS = { Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError };

// Remembers a copy before what it holds is copied, so that cycles end and what was one object stays one.
const keep = (value, copy, seen) => {
  seen.set(value, copy);
  return copy;
};

const cloneError = (value, seen) => {
  const copy = keep(value, new (Object.hasOwn(ERRORS, value.name) ? ERRORS[value.name] : Error)(value.message), seen);
  if (value.cause !== undefined) copy.cause = clone(value.cause, seen);
  copy.stack = value.stack;
  return copy;
};

const cloneView = (value, seen) => {
  const buffer = clone(value.buffer, seen);
  const length = value instanceof DataView ? value.byteLength : value.length;
  return keep(value, new value.constructor(buffer, value.byteOffset, length), seen);
};

const cloneObject = (value, seen) => {
  if (value instanceof Date) return keep(value, new Date(value.getTime()), seen);
  if (value instanceof RegExp) return keep(value, new RegExp(value.source, value.flags), seen);
  if (value instanceof Boolean || value instanceof Number || value instanceof String || value instanceof BigInt) {
    return keep(value, Object(value.valueOf()), seen);
  }
  if (value instanceof Error) return cloneError(value, seen);
  if (value instanceof ArrayBuffer) return keep(value, value.slice(0), seen);
  if (ArrayBuffer.isView(value)) return cloneView(value, seen);
  if (value instanceof Map) {
    const copy = keep(value, new Map(), seen);
    for (const [key, item] of value) copy.set(clone(key, seen), clone(item, seen));
    return copy;
  }
  if (value instanceof Set) {
    const copy = keep(value, new Set(), seen);
    for (const item of value) copy.add(clone(item, seen));
    return copy;
  }
  if (OPAQUE.some((kind) => value instanceof kind)) refuse(`an object of the class ${value.constructor.name}`);
  const copy = keep(value, Array.isArray(value) ? new Array(value.length) : {}, seen);
  for (const key of Object.keys(value)) {
    // Not assigned: JSON.parse makes own properties of the name __proto__, too, and that would call the setter.
    defineProperty(copy, key, { __proto__: null, value: clone(value[key], seen), writable: true, enumerable: true, configurable: true });
  }
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
