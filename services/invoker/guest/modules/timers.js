// Node's timers, and their promises.
const { setTimeout, setInterval, setImmediate, clearTimeout, clearInterval, clearImmediate } = globalThis;

const wait = (start, clear, value, { signal } = {}) =>
  new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const timer = start(() => {
      signal?.removeEventListener('abort', abort);
      resolve(value);
    });
    const abort = () => {
      clear(timer);
      reject(signal.reason);
    };
    signal?.addEventListener('abort', abort, { once: true });
  });

const promises = {
  setTimeout: (delay, value, options) => wait((callback) => setTimeout(callback, delay), clearTimeout, value, options),
  setImmediate: (value, options) => wait(setImmediate, clearImmediate, value, options),
};

module.exports = { setTimeout, setInterval, setImmediate, clearTimeout, clearInterval, clearImmediate, promises };
