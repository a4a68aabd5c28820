// The console. Lines go to the host as they are written, so that a run that is killed keeps them.

const LEVELS = { debug: 0, info: 1, warn: 2, error: 3 };
// More than the host keeps of a whole run: no use to hand over.
const MAX_LINE = 70_000;

let indent = '';

const { stringify } = JSON;

chatfn.log = (level, text, extras = '') => {
  const line = text.length > MAX_LINE ? text.slice(0, MAX_LINE) : text;
  host.log(LEVELS[level], line, extras.length > MAX_LINE ? '' : extras);
};

// JSON has neither; and errors, whose fields are not enumerable, would be empty objects.
const toJson = (key, value) => {
  if (typeof value === 'bigint') return String(value);
  if (value instanceof Error) {
    const [name, message, stack] = chatfn.describeThrown(value);
    return { name, message, stack, ...value };
  }
  return value;
};

// The host reads JSON of little more than that many levels, and a stack is soon used up by more.
const MAX_LEVELS = 100;

// As toJson, until there is too much of it.
const bounded = () => {
  const levels = new Map();
  let left = MAX_LINE;
  return function (key, value) {
    const level = (levels.get(this) ?? 0) + 1;
    left -= 1 + key.length + (typeof value === 'string' ? value.length : 0);
    if (left < 0 || level > MAX_LEVELS) throw new RangeError('too much for extras');
    const plain = toJson(key, value);
    if (plain !== null && typeof plain === 'object') levels.set(plain, level);
    return plain;
  };
};

// What follows a first string, as JSON, for programs that read logs. Strings alone are text, and in it already. Unlike
// the text, it is what JSON.stringify makes of the values: getters and toJSON are called.
const extrasOf = (values) => {
  if (typeof values[0] !== 'string' || values.every((value) => typeof value === 'string')) return '';
  return stringify(values.slice(1), bounded());
};

const attempt = (make, otherwise) => {
  try {
    return make();
  } catch {
    return otherwise;
  }
};

const write = (level, values) => {
  const text = attempt(() => chatfn.format(values), '[a value that cannot be shown]');
  const indented = indent === '' ? text : indent + text.replaceAll('\n', `\n${indent}`);
  // A cycle, too much, or a toJSON that throws: the text has it all the same.
  chatfn.log(level, indented, attempt(() => extrasOf(values), ''));
};

const counts = new Map();
const timers = new Map();

const elapsed = (label) => {
  const since = timers.get(label);
  return since === undefined ? `${label}: no such timer` : `${label}: ${(host.monotonic() - since).toFixed(3)}ms`;
};

const callSite = () => chatfn.cleanStack(new Error().stack);

chatfn.define('console', {
  debug: (...values) => write('debug', values),
  log: (...values) => write('info', values),
  info: (...values) => write('info', values),
  warn: (...values) => write('warn', values),
  error: (...values) => write('error', values),
  dir: (value) => write('info', [chatfn.inspect(value)]),
  table: (value) => write('info', [value]),
  trace: (...values) => write('debug', [`Trace: ${chatfn.format(values)}\n${callSite()}`]),
  assert: (condition, ...values) => {
    if (!condition) write('error', ['Assertion failed', ...values]);
  },
  group: (...values) => {
    if (values.length > 0) write('info', values);
    if (indent.length < 32) indent += '  ';
  },
  groupEnd: () => {
    indent = indent.slice(2);
  },
  count: (label = 'default') => {
    counts.set(label, (counts.get(label) ?? 0) + 1);
    write('info', [`${label}: ${counts.get(label)}`]);
  },
  countReset: (label = 'default') => {
    counts.delete(label);
  },
  time: (label = 'default') => {
    timers.set(label, host.monotonic());
  },
  timeLog: (label = 'default', ...values) => write('info', [elapsed(label), ...values]),
  timeEnd: (label = 'default') => {
    write('info', [elapsed(label)]);
    timers.delete(label);
  },
});
console.groupCollapsed = console.group;
