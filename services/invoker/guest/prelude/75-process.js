// The little of Node's process that portable code looks at. `env` is filled for each run.

const env = Object.create(Object.prototype);

chatfn.setEnv = (values) => {
  for (const name of Object.keys(values)) env[name] = String(values[name]);
};

chatfn.define('process', {
  env,
  argv: [],
  platform: 'chatfn',
  nextTick: (callback, ...args) => queueMicrotask(() => callback(...args)),
});
chatfn.define('global', globalThis);
