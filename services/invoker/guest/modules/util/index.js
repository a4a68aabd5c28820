// Node's util. A folder, because packages ask for it as `util/`, too.
const CUSTOM_PROMISIFY = Symbol.for('nodejs.util.promisify.custom');

const needFunction = (value) => {
  if (typeof value === 'function') return;
  throw Object.assign(new TypeError('The "original" argument must be of type function'), { code: 'ERR_INVALID_ARG_TYPE' });
};

const promisify = (original) => {
  needFunction(original);
  if (original[CUSTOM_PROMISIFY] !== undefined) return original[CUSTOM_PROMISIFY];
  const promised = function (...args) {
    return new Promise((resolve, reject) => {
      original.call(this, ...args, (error, value) => (error ? reject(error) : resolve(value)));
    });
  };
  Object.setPrototypeOf(promised, Object.getPrototypeOf(original));
  return Object.defineProperties(promised, Object.getOwnPropertyDescriptors(original));
};
promisify.custom = CUSTOM_PROMISIFY;

const callbackify = (original) => {
  needFunction(original);
  return function (...args) {
    const callback = args.pop();
    needFunction(callback);
    original.apply(this, args).then(
      (value) => queueMicrotask(() => callback(null, value)),
      (error) => queueMicrotask(() => callback(error ?? Object.assign(new Error('rejected with a falsy value'), { reason: error }))),
    );
  };
};

const inherits = (constructor, parent) => {
  Object.defineProperty(constructor, 'super_', { value: parent, writable: true, configurable: true });
  Object.setPrototypeOf(constructor.prototype, parent.prototype);
};

const deprecate = (original) => original;

const inspect = (value, options) => chatfn.inspect(value, typeof options === 'object' && options !== null ? options : {});
inspect.custom = Symbol.for('nodejs.util.inspect.custom');
inspect.defaultOptions = {};

module.exports = {
  callbackify,
  debuglog: () => Object.assign(() => {}, { enabled: false }),
  deprecate,
  format: (...values) => chatfn.format(values),
  formatWithOptions: (options, ...values) => chatfn.format(values),
  inherits,
  inspect,
  isArray: Array.isArray,
  isDeepStrictEqual: (a, b) => require('assert/build/internal/util/comparisons').isDeepStrictEqual(a, b),
  promisify,
  stripVTControlCharacters: (text) => String(text).replace(/\u001b\[[0-9;]*[A-Za-z]/g, ''),
  TextDecoder: globalThis.TextDecoder,
  TextEncoder: globalThis.TextEncoder,
  toUSVString: (text) => String(text).toWellFormed(),
  types: require('./types'),
};
