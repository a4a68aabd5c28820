// Node's querystring. The packages of this name have been left alone for ten years, and throw on a stray percent sign.
const { Buffer } = require('buffer');

const MAX_KEYS = 1000;

// Decodes what is well-formed and keeps the rest as it is.
const unescape = (text) => {
  try {
    return decodeURIComponent(text);
  } catch {
    const bytes = [];
    for (let at = 0; at < text.length; at++) {
      const hex = text[at] === '%' ? text.slice(at + 1, at + 3) : '';
      if (/^[0-9a-fA-F]{2}$/.test(hex)) {
        bytes.push(parseInt(hex, 16));
        at += 2;
      } else {
        bytes.push(...Buffer.from(text[at]));
      }
    }
    return Buffer.from(bytes).toString();
  }
};

const escape = (text) => encodeURIComponent(String(text).toWellFormed());

const primitive = (value) => {
  switch (typeof value) {
    case 'string': return value;
    case 'number': return Number.isFinite(value) ? String(value) : '';
    case 'bigint':
    case 'boolean': return String(value);
    default: return '';
  }
};

const stringify = (fields, separator = '&', equals = '=', options = {}) => {
  if (fields === null || typeof fields !== 'object') return '';
  const encode = options?.encodeURIComponent ?? exports.escape;
  const pair = (name, value) => encode(primitive(name)) + (equals || '=') + encode(primitive(value));
  return Object.keys(fields)
    .flatMap((name) => (Array.isArray(fields[name]) ? fields[name].map((value) => pair(name, value)) : [pair(name, fields[name])]))
    .join(separator || '&');
};

const parse = (text, separator = '&', equals = '=', options = {}) => {
  const fields = Object.create(null);
  if (typeof text !== 'string' || text === '') return fields;
  const decode = options?.decodeURIComponent ?? exports.unescape;
  const limit = options?.maxKeys ?? MAX_KEYS;
  const pairs = text.split(separator || '&');
  for (const pair of limit > 0 ? pairs.slice(0, limit) : pairs) {
    if (pair === '') continue;
    const at = pair.indexOf(equals || '=');
    const part = (from, to) => decode(pair.slice(from, to).replaceAll('+', ' '));
    const name = at < 0 ? part(0) : part(0, at);
    const value = at < 0 ? '' : part(at + (equals || '=').length);
    if (!(name in fields)) fields[name] = value;
    else if (Array.isArray(fields[name])) fields[name].push(value);
    else fields[name] = [fields[name], value];
  }
  return fields;
};

module.exports = exports = { parse, stringify, escape, unescape, decode: parse, encode: stringify };
