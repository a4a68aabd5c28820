// TextEncoder and TextDecoder, for UTF-8.

const LABELS = ['utf-8', 'utf8', 'unicode-1-1-utf-8', 'unicode11utf8', 'unicode20utf8', 'x-unicode20utf8'];
const NOTHING = new Uint8Array(0);

const toBytes = (source) => {
  if (source === undefined) return NOTHING;
  if (ArrayBuffer.isView(source)) return new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  throw new TypeError('expected an ArrayBuffer or a view of one');
};

chatfn.toBytes = toBytes;

class TextEncoder {
  get encoding() {
    return 'utf-8';
  }

  encode(text = '') {
    return host.encode(String(text));
  }

  encodeInto(text, target) {
    let read = 0;
    let written = 0;
    for (const character of String(text)) {
      const bytes = host.encode(character);
      if (written + bytes.length > target.length) break;
      target.set(bytes, written);
      written += bytes.length;
      read += character.length;
    }
    return { read, written };
  }
}

// How many bytes a sequence has that starts so: 0 when no sequence does.
const sequenceLength = (first) => (first >= 0xc2 && first <= 0xdf ? 2 : first >= 0xe0 && first <= 0xef ? 3 : first >= 0xf0 && first <= 0xf4 ? 4 : 0);

// How many bytes at `at` belong to one wrong or unfinished sequence, and whether more bytes could complete it.
const faultAt = (bytes, at) => {
  const first = bytes[at];
  const length = sequenceLength(first);
  if (length === 0) return { size: 1, unfinished: false };
  let low = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80;
  let high = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf;
  let size = 1;
  while (size < length && at + size < bytes.length && bytes[at + size] >= low && bytes[at + size] <= high) {
    low = 0x80;
    high = 0xbf;
    size++;
  }
  return { size, unfinished: at + size === bytes.length };
};

// Decodes all bytes; with `stream`, an unfinished sequence at the end is left over.
const decode = (bytes, fatal, stream) => {
  let text = '';
  let at = 0;
  while (at < bytes.length) {
    const [good, consumed] = host.decodePrefix(bytes.subarray(at));
    text += good;
    at += consumed;
    if (at === bytes.length) break;
    const fault = faultAt(bytes, at);
    if (fault.unfinished && stream) return [text, bytes.slice(at)];
    if (fatal) throw new TypeError('the bytes are not valid UTF-8');
    text += '\ufffd';
    at += fault.size;
  }
  return [text, NOTHING];
};

// A byte order mark is a character like any other here.
chatfn.decodeAll = (bytes) => decode(bytes, false, false)[0];

chatfn.decodeUtf8 = (bytes) => {
  const [text] = decode(bytes, false, false);
  return text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
};

class TextDecoder {
  #rest = NOTHING;
  #started = false;

  constructor(label = 'utf-8', { fatal = false, ignoreBOM = false } = {}) {
    if (!LABELS.includes(String(label).trim().toLowerCase())) {
      throw new RangeError(`TextDecoder knows only utf-8, not '${label}'`);
    }
    this.fatal = Boolean(fatal);
    this.ignoreBOM = Boolean(ignoreBOM);
  }

  get encoding() {
    return 'utf-8';
  }

  decode(source, { stream = false } = {}) {
    let bytes = toBytes(source);
    if (this.#rest.length > 0) {
      const joined = new Uint8Array(this.#rest.length + bytes.length);
      joined.set(this.#rest);
      joined.set(bytes, this.#rest.length);
      bytes = joined;
    }
    this.#rest = NOTHING;
    let [text, rest] = decode(bytes, this.fatal, stream);
    if (!this.#started && text !== '') {
      if (!this.ignoreBOM && text.charCodeAt(0) === 0xfeff) text = text.slice(1);
      this.#started = true;
    }
    this.#rest = rest;
    if (!stream) this.#started = false;
    return text;
  }
}

chatfn.defineAll({ TextEncoder, TextDecoder });
