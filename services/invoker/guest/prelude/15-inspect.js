// Values as text, the way Node's util.inspect shows them, within limits.

const DEPTH = 4;
const MAX_DEPTH = 100;
const MAX_ITEMS = 100;
const MAX_TEXT = 16_384;
const LINE = 76;
// What is shown in all, roughly: a value that is both wide and deep would take all memory.
const MAX_SHOWN = 65_536;
const OBJECT_COST = 16;
const CUSTOM = Symbol.for('nodejs.util.inspect.custom');
// Of a proxy or an author's code that throws. It takes the place of that value alone: the rest of a line is shown.
const UNSHOWN = '[a value that cannot be shown]';

const attempt = (make) => {
  try {
    return make();
  } catch {
    return UNSHOWN;
  }
};

// Of the value that is being shown.
let maxDepth = DEPTH;
let left = 0; // of MAX_SHOWN
let nested = 0; // calls of inspect from within one

const isIdentifier = /^[A-Za-z_$][\w$]*$/;

const quote = (text) => {
  const cut = text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}… ${text.length - MAX_TEXT} more` : text;
  const mark = !cut.includes("'") ? "'" : !cut.includes('"') ? '"' : "'";
  const escaped = JSON.stringify(cut).slice(1, -1).replaceAll('\\"', '"');
  return mark + (mark === "'" ? escaped.replaceAll("'", "\\'") : escaped) + mark;
};

const showKey = (key) =>
  typeof key === 'symbol' ? `[${String(key)}]` : isIdentifier.test(key) ? key : quote(key);

const className = (value) => {
  const prototype = Object.getPrototypeOf(value);
  if (prototype === null) return '[Object: null prototype]';
  const made = Object.getOwnPropertyDescriptor(prototype, 'constructor')?.value;
  return typeof made === 'function' && made.name !== '' ? made.name : 'Object';
};

const join = (open, items, close) => {
  if (items.length === 0) return open + close;
  const width = items.reduce((sum, item) => sum + item.length + 2, open.length + close.length);
  const oneLine = width <= LINE && !items.some((item) => item.includes('\n'));
  return oneLine
    ? `${open} ${items.join(', ')} ${close}`
    : `${open}\n${items.map((item) => `  ${item.replaceAll('\n', '\n  ')}`).join(',\n')}\n${close}`;
};

const more = (count) => (count > 0 ? [`… ${count} more`] : []);

const showError = (error, nested) => {
  const [name, message, stack] = chatfn.describeThrown(error);
  const head = `${name}: ${message}`;
  return nested ? `[${head}]` : stack === '' ? head : `${head}\n${stack}`;
};

const showEntries = (value, keys, seen, depth) =>
  keys.map((key) => {
    left -= String(key).length;
    const property = Object.getOwnPropertyDescriptor(value, key);
    if (property === undefined) return `${showKey(key)}: undefined`;
    // A getter is not run: showing a value must not change it.
    const shown = 'value' in property ? show(property.value, seen, depth + 1)
      : property.get === undefined ? '[Setter]' : '[Getter]';
    return `${showKey(key)}: ${shown}`;
  });

const ownKeys = (value) => [
  ...Object.keys(value),
  ...Object.getOwnPropertySymbols(value).filter((key) => Object.prototype.propertyIsEnumerable.call(value, key)),
];

const showArray = (value, name, seen, depth) => {
  const items = [];
  for (let i = 0; i < Math.min(value.length, MAX_ITEMS); i++) items.push(show(value[i], seen, depth + 1));
  items.push(...more(value.length - MAX_ITEMS));
  return join(name === 'Array' ? '[' : `${name}(${value.length}) [`, items, ']');
};

const showMap = (value, seen, depth) => {
  const items = [];
  for (const [key, item] of value) {
    if (items.length === MAX_ITEMS) break;
    items.push(`${show(key, seen, depth + 1)} => ${show(item, seen, depth + 1)}`);
  }
  return join(`Map(${value.size}) {`, [...items, ...more(value.size - MAX_ITEMS)], '}');
};

const showSet = (value, seen, depth) => {
  const items = [...value].slice(0, MAX_ITEMS).map((item) => show(item, seen, depth + 1));
  return join(`Set(${value.size}) {`, [...items, ...more(value.size - MAX_ITEMS)], '}');
};

// What a class of its own has to say about a value, as Node lets it.
const showCustom = (value, depth) => {
  const custom = value[CUSTOM];
  if (typeof custom !== 'function' || custom === chatfn.inspect) return undefined;
  const shown = custom.call(value, maxDepth - depth, { depth: maxDepth }, chatfn.inspect);
  return typeof shown === 'string' ? shown : undefined;
};

const showObject = (value, seen, depth) => {
  const custom = showCustom(value, depth);
  if (custom !== undefined) return custom;
  if (value instanceof Error || value instanceof DOMException) return showError(value, depth > 0);
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? 'Invalid Date' : value.toISOString();
  if (value instanceof RegExp) return String(value);
  const name = className(value);
  if (depth > maxDepth) return Array.isArray(value) ? '[Array]' : `[${name}]`;
  if (Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView))) {
    return showArray(value, name, seen, depth);
  }
  if (value instanceof Map) return showMap(value, seen, depth);
  if (value instanceof Set) return showSet(value, seen, depth);
  if (value instanceof Promise) return 'Promise {}';
  if (value instanceof ArrayBuffer) return `ArrayBuffer { byteLength: ${value.byteLength} }`;
  const keys = ownKeys(value);
  const items = showEntries(value, keys.slice(0, MAX_ITEMS), seen, depth);
  items.push(...more(keys.length - MAX_ITEMS));
  return join(name === 'Object' ? '{' : `${name} {`, items, '}');
};

const showFunction = (value) => {
  const kind = host.isAsync(value) ? 'AsyncFunction' : 'Function';
  return value.name === '' ? `[${kind} (anonymous)]` : `[${kind}: ${value.name}]`;
};

const show = (value, seen, depth) => {
  if (left <= 0) return '…';
  const text = attempt(() => showWhole(value, seen, depth));
  left -= typeof value === 'object' ? OBJECT_COST : text.length;
  return text;
};

const showWhole = (value, seen, depth) => {
  switch (typeof value) {
    case 'string': return quote(value);
    case 'bigint': return `${value}n`;
    case 'number': return Object.is(value, -0) ? '-0' : String(value);
    case 'function': return showFunction(value);
    case 'object': break;
    default: return String(value);
  }
  if (value === null) return 'null';
  if (seen.includes(value)) return '[Circular]';
  seen.push(value);
  try {
    return showObject(value, seen, depth);
  } finally {
    seen.pop();
  }
};

// `depth` is how many levels of objects are shown; null or Infinity is as many as are ever shown.
chatfn.inspect = (value, { depth = DEPTH } = {}) => {
  const before = maxDepth;
  maxDepth = Math.min(depth ?? MAX_DEPTH, MAX_DEPTH);
  if (nested++ === 0) left = MAX_SHOWN;
  try {
    return show(value, [], 0);
  } finally {
    nested--;
    maxDepth = before;
  }
};

const isNoNumber = (value) => typeof value === 'object' || typeof value === 'symbol';

// As in Node, a cycle is told from what else JSON cannot hold by what is said of it.
const isCycle = (error) => error instanceof TypeError && error.message === 'circular reference';

const toJson = (value) => {
  try {
    return JSON.stringify(value);
  } catch (error) {
    if (isCycle(error)) return '[Circular]';
    throw error;
  }
};

const directives = {
  s: (value) => (typeof value === 'string' ? value : typeof value === 'object' ? chatfn.inspect(value) : String(value)),
  d: (value) => (isNoNumber(value) ? 'NaN' : String(Number(value))),
  i: (value) => (isNoNumber(value) ? 'NaN' : String(parseInt(value, 10))),
  f: (value) => (typeof value === 'symbol' ? 'NaN' : String(parseFloat(value))),
  j: toJson,
  o: (value) => chatfn.inspect(value),
  O: (value) => chatfn.inspect(value),
  c: () => '',
};

// console.log's arguments as one text: a first string may hold %s, %d, %j and friends.
chatfn.format = (values) => {
  let rest = values;
  let text = '';
  if (typeof values[0] === 'string') {
    let next = 1;
    text = values.length === 1 ? values[0] : values[0].replace(/%([sdifjoOc%])/g, (match, letter) => {
      if (letter === '%') return '%';
      if (next === values.length) return match;
      const value = values[next++];
      return attempt(() => directives[letter](value));
    });
    rest = values.slice(next);
  }
  const shown = rest.map((value) => (typeof value === 'string' ? value : chatfn.inspect(value)));
  if (rest.length === 0) return text;
  return values.length > 0 && typeof values[0] === 'string' ? [text, ...shown].join(' ') : shown.join(' ');
};
