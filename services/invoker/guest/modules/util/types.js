// util.types: what a value is, whatever its prototype says.

// A value of a kind, if the kind's own getter or method takes it.
const brand = (prototype, name) => {
  const property = Object.getOwnPropertyDescriptor(prototype, name);
  const probe = property.get ?? property.value;
  return (value) => {
    if (value === null || typeof value !== 'object') return false;
    try {
      probe.call(value);
      return true;
    } catch {
      return false;
    }
  };
};

const typedArrayTag = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(Uint8Array.prototype), Symbol.toStringTag).get;
const typed = (name) => (value) => typedArrayTag.call(value) === name;
const ofPrototype = (prototype) => (value) => value !== null && typeof value === 'object' && Object.getPrototypeOf(value) === prototype;
const tagged = (tag) => (value) => value !== null && typeof value === 'object' && value[Symbol.toStringTag] === tag;

const isArrayBuffer = brand(ArrayBuffer.prototype, 'byteLength');
const isSharedArrayBuffer = typeof SharedArrayBuffer === 'function' ? brand(SharedArrayBuffer.prototype, 'byteLength') : () => false;
const boxed = {
  isNumberObject: brand(Number.prototype, 'valueOf'),
  isStringObject: brand(String.prototype, 'valueOf'),
  isBooleanObject: brand(Boolean.prototype, 'valueOf'),
  isBigIntObject: brand(BigInt.prototype, 'valueOf'),
  isSymbolObject: brand(Symbol.prototype, 'valueOf'),
};

const types = {
  ...boxed,
  isAnyArrayBuffer: (value) => isArrayBuffer(value) || isSharedArrayBuffer(value),
  isArrayBuffer,
  isArrayBufferView: (value) => ArrayBuffer.isView(value),
  isAsyncFunction: (value) => typeof value === 'function' && host.isAsync(value),
  isBoxedPrimitive: (value) => Object.values(boxed).some((is) => is(value)),
  isDataView: (value) => ArrayBuffer.isView(value) && typedArrayTag.call(value) === undefined,
  isDate: brand(Date.prototype, 'getTime'),
  isGeneratorFunction: (value) => typeof value === 'function' && tagged('GeneratorFunction')(Object.getPrototypeOf(value)),
  isGeneratorObject: tagged('Generator'),
  isMap: brand(Map.prototype, 'size'),
  isMapIterator: ofPrototype(Object.getPrototypeOf(new Map().entries())),
  isNativeError: (value) => Error.isError?.(value) ?? value instanceof Error,
  isPromise: (value) => value instanceof Promise,
  isProxy: () => false,
  isRegExp: brand(RegExp.prototype, 'source'),
  isSet: brand(Set.prototype, 'size'),
  isSetIterator: ofPrototype(Object.getPrototypeOf(new Set().values())),
  isSharedArrayBuffer,
  isTypedArray: (value) => typedArrayTag.call(value) !== undefined,
  isWeakMap: (value) => value instanceof WeakMap,
  isWeakSet: (value) => value instanceof WeakSet,
};

for (const name of ['Int8Array', 'Uint8Array', 'Uint8ClampedArray', 'Int16Array', 'Uint16Array', 'Int32Array', 'Uint32Array',
  'Float32Array', 'Float64Array', 'BigInt64Array', 'BigUint64Array']) {
  types[`is${name}`] = typed(name);
}

module.exports = types;
