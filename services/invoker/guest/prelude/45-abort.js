// Events as far as AbortController needs them.

class Event {
  constructor(type, { cancelable = false } = {}) {
    this.type = String(type);
    this.cancelable = cancelable;
    this.defaultPrevented = false;
    this.target = null;
    this.timeStamp = host.isRunning() ? host.monotonic() : 0;
  }

  preventDefault() {
    if (this.cancelable) this.defaultPrevented = true;
  }
}

class EventTarget {
  #listeners = new Map();

  addEventListener(type, listener, options) {
    if (listener == null) return;
    const once = typeof options === 'object' && options !== null && Boolean(options.once);
    const list = this.#listeners.get(String(type)) ?? [];
    if (!list.some((entry) => entry.listener === listener)) list.push({ listener, once });
    this.#listeners.set(String(type), list);
  }

  removeEventListener(type, listener) {
    const list = this.#listeners.get(String(type)) ?? [];
    this.#listeners.set(String(type), list.filter((entry) => entry.listener !== listener));
  }

  dispatchEvent(event) {
    event.target = this;
    const property = this[`on${event.type}`];
    if (typeof property === 'function') property.call(this, event);
    for (const { listener, once } of [...(this.#listeners.get(event.type) ?? [])]) {
      if (once) this.removeEventListener(event.type, listener);
      if (typeof listener === 'function') listener.call(this, event);
      else listener.handleEvent(event);
    }
    return !event.defaultPrevented;
  }
}

const KEY = Symbol('abort');

class AbortSignal extends EventTarget {
  #aborted = false;
  #reason;

  constructor(key) {
    if (key !== KEY) throw new TypeError('AbortSignal has no public constructor: use AbortController');
    super();
    this.onabort = null;
  }

  get aborted() {
    return this.#aborted;
  }

  get reason() {
    return this.#reason;
  }

  throwIfAborted() {
    if (this.#aborted) throw this.#reason;
  }

  [KEY](reason) {
    if (this.#aborted) return;
    this.#aborted = true;
    this.#reason = reason === undefined ? new DOMException('the operation was aborted', 'AbortError') : reason;
    this.dispatchEvent(new Event('abort'));
  }

  static abort(reason) {
    const signal = new AbortSignal(KEY);
    signal[KEY](reason);
    return signal;
  }

  static timeout(delay) {
    chatfn.onlyInRuns('AbortSignal.timeout');
    const signal = new AbortSignal(KEY);
    chatfn.setTimer(() => signal[KEY](new DOMException(`no answer within ${delay} ms`, 'TimeoutError')), delay);
    return signal;
  }

  static any(signals) {
    const any = new AbortSignal(KEY);
    for (const signal of signals) {
      if (signal.aborted) {
        any[KEY](signal.reason);
        break;
      }
      signal.addEventListener('abort', () => any[KEY](signal.reason), { once: true });
    }
    return any;
  }
}

class AbortController {
  #signal = new AbortSignal(KEY);

  get signal() {
    return this.#signal;
  }

  abort(reason) {
    this.#signal[KEY](reason);
  }
}

chatfn.defineAll({ Event, EventTarget, AbortSignal, AbortController });
