// What the package `url` uses of `qs`, which is many times the size.
const querystring = require('querystring');

module.exports = { parse: (text) => querystring.parse(text), stringify: (fields) => querystring.stringify(fields) };
