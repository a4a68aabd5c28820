// Locale data of FormatJS, cut down when it is bundled: to the calendar and the digits that are offered, and to the date
// formats that differ in more than what the formatter adjusts anyway. Whole, one locale has 760 of them, all of which
// are looked at each time a formatter is made.
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { runInNewContext } from 'node:vm';

const LOCALES = ['en', 'en-GB', 'de'];

// How full and long dates are joined with a time: CLDR's "atTime" patterns, which the package lacks.
const AT_TIME = { en: "{1} 'at' {0}", 'en-GB': "{1} 'at' {0}", de: "{1} 'um' {0}" };

const NARROW_SPACE = '\u202f';

// As V8 does, since programs compare and split what is shown.
const plainSpaces = (value) => JSON.parse(JSON.stringify(value).replaceAll(NARROW_SPACE, ' '));

// Of the formats that join a date and a time: those whose time is one of these, without an era.
const TIMES = ['h', 'H', 'hm', 'Hm', 'hms', 'Hms', 'hmv', 'Hmv', 'hmsv', 'Hmsv'];

const cutFormats = (formats, atTime) => {
  const kept = {};
  for (const [skeleton, pattern] of Object.entries(plainSpaces(formats))) {
    const at = skeleton.lastIndexOf(', ');
    // A date may have a comma, too.
    const time = /^[^EMdGy]+$/.test(skeleton.slice(at + 2)) ? skeleton.slice(at + 2) : '';
    if (at > 0 && time !== '' && (!TIMES.includes(time) || skeleton.includes('G'))) continue;
    const long = at > 0 && /^(.*MMMM.*), ([^,]*[hH].*)$/.exec(pattern);
    kept[skeleton] = long ? atTime.replace('{1}', long[1]).replace('{0}', long[2]) : pattern;
  }
  return kept;
};

const cutters = {
  datetimeformat: ({ data, locale }) => ({
    locale,
    data: {
      ...plainSpaces({ ...data, formats: undefined, intervalFormats: undefined }),
      formats: { gregory: cutFormats(data.formats.gregory, AT_TIME[locale]) },
      // A range is shown as its two ends.
      intervalFormats: { intervalFormatFallback: data.intervalFormats.intervalFormatFallback },
      dateTimeFormat: { ...data.dateTimeFormat, full: AT_TIME[locale], long: AT_TIME[locale] },
      calendarData: {},
      ca: ['gregory', 'iso8601'],
      nu: ['latn'],
    },
  }),

  numberformat: ({ data, locale }) => {
    const latin = (field) => ({ latn: data.numbers[field].latn });
    const numbers = { ...data.numbers, aliases: {}, nu: ['latn'] };
    for (const field of ['currency', 'decimal', 'percent', 'symbols']) numbers[field] = latin(field);
    return { locale, data: { ...data, numbers, nu: ['latn'] } };
  },
};

// What a package's file hands to `__addLocaleData`.
const read = async (path) => {
  let entry;
  const constructor = { __addLocaleData: (data) => { entry = data; } };
  runInNewContext(await readFile(path, 'utf8'), { Intl: { DateTimeFormat: constructor, NumberFormat: constructor } });
  return entry;
};

// `require('locale-data:numberformat')`: an array of entries, one for each locale, as JSON.
export const localeData = {
  name: 'locale-data',
  setup({ onLoad, onResolve }) {
    const { resolve } = createRequire(import.meta.url);
    onResolve({ filter: /^locale-data:/ }, ({ path }) => ({ path: path.slice('locale-data:'.length), namespace: 'locale-data' }));
    onLoad({ filter: /.*/, namespace: 'locale-data' }, async ({ path: kind }) => {
      const entries = await Promise.all(LOCALES.map((locale) => read(resolve(`@formatjs/intl-${kind}/locale-data/${locale}.js`))));
      // As a text: the parser of JSON needs far less memory than that of the language.
      return { contents: JSON.stringify(entries.map(cutters[kind])), loader: 'text' };
    });
  },
};
