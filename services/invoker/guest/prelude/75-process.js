// The little of Node's process that portable code looks at. `env` is filled for each run.

const { queueMicrotask } = globalThis;
const env = Object.create(Object.prototype);

chatfn.setEnv = (values) => {
  for (const name of Object.keys(values)) env[name] = String(values[name]);
};

chatfn.define('process', {
  env,
  argv: [],
  platform: 'chatfn',
  // Packages decide by it what they may use; this is the runtime that lambdas were written for.
  version: 'v22.0.0',
  versions: { node: '22.0.0' },
  cwd: () => '/',
  emitWarning: (warning) => chatfn.log('warn', String(warning)),
  hrtime: Object.assign(
    (since = [0, 0]) => {
      const now = BigInt(Math.round(host.monotonic() * 1e6)) - BigInt(since[0]) * 1_000_000_000n - BigInt(since[1]);
      return [Number(now / 1_000_000_000n), Number(now % 1_000_000_000n)];
    },
    { bigint: () => BigInt(Math.round(host.monotonic() * 1e6)) },
  ),
  uptime: () => host.monotonic() / 1e3,
  nextTick: (callback, ...args) => queueMicrotask(() => callback(...args)),
});
chatfn.define('global', globalThis);
