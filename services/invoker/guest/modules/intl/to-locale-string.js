// The methods of the language that Intl gives a meaning to.

const { DateTimeFormat, NumberFormat } = Intl;

const define = (prototype, name, value) =>
  Object.defineProperty(prototype, name, { value, writable: true, enumerable: false, configurable: true });

// Formatters for calls without options, which are most: making one costs more than using it.
const known = new Map();

const formatter = (kind, make, locales, options) => {
  if (options !== undefined || (locales !== undefined && typeof locales !== 'string')) return make(locales, options);
  const key = `${kind} ${locales}`;
  let it = known.get(key);
  if (it === undefined) known.set(key, it = make(locales, options));
  return it;
};

const ALL = ['year', 'month', 'day', 'weekday', 'hour', 'minute', 'second', 'dayPeriod', 'fractionalSecondDigits'];
const DATE = ALL.slice(0, 4);
const TIME = ALL.slice(4);

// With none of the fields that count, those of the defaults are shown.
const withDefaults = (counting, defaults) => (locales, options) => {
  const wanted = Object.assign(Object.create(null), options);
  const { dateStyle, timeStyle } = wanted;
  if (dateStyle === undefined && timeStyle === undefined && counting.every((field) => wanted[field] === undefined)) {
    for (const field of defaults) wanted[field] = 'numeric';
  }
  return new DateTimeFormat(locales, wanted);
};

const dateMethod = (name, counting, defaults) => {
  const make = withDefaults(counting, defaults);
  define(Date.prototype, name, {
    [name](locales, options) {
      const time = Date.prototype.getTime.call(this);
      return Number.isNaN(time) ? 'Invalid Date' : formatter(name, make, locales, options).format(time);
    },
  }[name]);
};

const DAY = ['year', 'month', 'day'];
const CLOCK = ['hour', 'minute', 'second'];
dateMethod('toLocaleString', ALL, [...DAY, ...CLOCK]);
dateMethod('toLocaleDateString', DATE, DAY);
dateMethod('toLocaleTimeString', TIME, CLOCK);

const numberMethod = (prototype) => {
  const { valueOf } = prototype;
  define(prototype, 'toLocaleString', function toLocaleString(locales, options) {
    const value = valueOf.call(this);
    return formatter('number', (...args) => new NumberFormat(...args), locales, options).format(value);
  });
};
numberMethod(Number.prototype);
numberMethod(BigInt.prototype);

// Formats are parsed at their first use, which takes long: that is now. All of them show a range in the same way.
for (const { formats } of Object.values(DateTimeFormat.localeData)) {
  const [{ rangePatterns }] = formats.gregory;
  for (const format of formats.gregory) Object.assign(format, { rangePatterns, rangePatterns12: rangePatterns });
}
for (const locale of [undefined, 'en-US', 'en-GB', 'de-DE']) {
  (1234.5).toLocaleString(locale);
  for (const method of ['toLocaleString', 'toLocaleDateString', 'toLocaleTimeString']) new Date(0)[method](locale);
}
