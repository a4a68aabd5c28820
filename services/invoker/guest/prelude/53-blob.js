// Blob: bytes with a type. Whole, as bodies are: there are no streams.

class Blob {
  #bytes;
  #type;

  constructor(parts = [], { type = '' } = {}) {
    if (parts === null || typeof parts !== 'object' || typeof parts[Symbol.iterator] !== 'function') {
      throw new TypeError('the parts of a Blob must be a sequence');
    }
    const all = Array.from(parts, toBytes);
    this.#bytes = new Uint8Array(all.reduce((sum, bytes) => sum + bytes.length, 0));
    let at = 0;
    for (const bytes of all) {
      this.#bytes.set(bytes, at);
      at += bytes.length;
    }
    const text = String(type);
    this.#type = /^[\x20-\x7e]*$/.test(text) ? text.toLowerCase() : '';
  }

  get size() {
    return this.#bytes.length;
  }

  get type() {
    return this.#type;
  }

  slice(start = 0, end = this.size, type = '') {
    return new Blob([this.#bytes.slice(start, end)], { type });
  }

  async text() {
    return chatfn.decodeUtf8(this.#bytes);
  }

  async arrayBuffer() {
    return this.#bytes.slice().buffer;
  }

  async bytes() {
    return this.#bytes.slice();
  }

  stream() {
    throw new DOMException('streams are not offered here: use text(), arrayBuffer() or bytes()', 'NotSupportedError');
  }

  static bytesOf(blob) {
    return blob.#bytes;
  }
}

chatfn.blobBytes = Blob.bytesOf;
delete Blob.bytesOf;

const toBytes = (part) => {
  if (part instanceof Blob) return chatfn.blobBytes(part);
  if (part instanceof ArrayBuffer || ArrayBuffer.isView(part)) return chatfn.toBytes(part);
  return host.encode(String(part).toWellFormed());
};

// It exists to say what to do instead.
class FormData {
  constructor() {
    throw new DOMException('FormData is not offered here: send URLSearchParams, JSON or bytes', 'NotSupportedError');
  }
}

chatfn.defineAll({ Blob, FormData });
