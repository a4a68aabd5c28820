// Intl, which QuickJS lacks, from FormatJS: en, en-GB and de; the Gregorian calendar; Latin digits. Time zones are the
// host's, so that they are neither in the image nor a second opinion. What is missing is listed in guest/README.md.
globalThis.Intl ??= {};

const define = (target, name, value) => Object.defineProperty(target, name, { value, writable: true, enumerable: false, configurable: true });

// In the order in which they need each other.
define(Intl, 'getCanonicalLocales', require('@formatjs/intl-getcanonicallocales').getCanonicalLocales);
define(Intl, 'Locale', require('@formatjs/intl-locale').Locale);
define(Intl, 'PluralRules', require('@formatjs/intl-pluralrules').PluralRules);
define(Intl, 'NumberFormat', require('@formatjs/intl-numberformat').NumberFormat);
define(Intl, 'ListFormat', require('@formatjs/intl-listformat').default);
define(Intl, 'RelativeTimeFormat', require('@formatjs/intl-relativetimeformat').default);
define(Intl, 'DateTimeFormat', require('@formatjs/intl-datetimeformat').DateTimeFormat);
Object.defineProperty(Intl, Symbol.toStringTag, { value: 'Intl', configurable: true });

require('@formatjs/intl-pluralrules/locale-data/en.js');
require('@formatjs/intl-pluralrules/locale-data/de.js');
require('@formatjs/intl-listformat/locale-data/en.js');
require('@formatjs/intl-listformat/locale-data/en-GB.js');
require('@formatjs/intl-listformat/locale-data/de.js');
require('@formatjs/intl-relativetimeformat/locale-data/en.js');
require('@formatjs/intl-relativetimeformat/locale-data/de.js');
for (const entry of JSON.parse(require('locale-data:numberformat'))) Intl.NumberFormat.__addLocaleData(entry);
for (const entry of JSON.parse(require('locale-data:datetimeformat'))) Intl.DateTimeFormat.__addLocaleData(entry);

require('./time-zones');
require('./to-locale-string');
