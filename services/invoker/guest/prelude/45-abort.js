// Events, as far as there is no tree that they travel through; and what is built on them.

const STOPPED = Symbol('stopped');

class Event {
  #canceled = false;

  constructor(type, { bubbles = false, cancelable = false, composed = false } = {}) {
    this.type = String(type);
    this.bubbles = Boolean(bubbles);
    this.cancelable = Boolean(cancelable);
    this.composed = Boolean(composed);
    this.target = null;
    this.currentTarget = null;
    this.eventPhase = Event.NONE;
    this.isTrusted = false;
    this.timeStamp = host.isRunning() ? host.monotonic() : 0;
    Object.defineProperty(this, STOPPED, { value: false, writable: true });
  }

  static NONE = 0;
  static CAPTURING_PHASE = 1;
  static AT_TARGET = 2;
  static BUBBLING_PHASE = 3;

  get defaultPrevented() {
    return this.#canceled;
  }

  preventDefault() {
    if (this.cancelable) this.#canceled = true;
  }

  stopPropagation() {}

  stopImmediatePropagation() {
    this[STOPPED] = true;
  }

  composedPath() {
    return this.currentTarget === null ? [] : [this.currentTarget];
  }
}

class CustomEvent extends Event {
  constructor(type, init = {}) {
    super(type, init);
    this.detail = init.detail ?? null;
  }
}

class EventTarget {
  #listeners = []; // { type, listener, capture, once, removed }

  addEventListener(type, listener, options) {
    if (listener === null || listener === undefined) return;
    if (typeof listener !== 'function' && typeof listener !== 'object') throw new TypeError('a listener is a function or an object with handleEvent');
    const { capture = options === true, once = false, signal } = Object(options);
    if (signal?.aborted) return;
    const key = [String(type), Boolean(capture)];
    if (this.#find(listener, ...key) !== undefined) return;
    this.#listeners.push({ type: key[0], listener, capture: key[1], once: Boolean(once), removed: false });
    signal?.addEventListener('abort', () => this.removeEventListener(type, listener, options), { once: true });
  }

  removeEventListener(type, listener, options) {
    const { capture = options === true } = Object(options);
    const entry = this.#find(listener, String(type), Boolean(capture));
    if (entry === undefined) return;
    entry.removed = true;
    this.#listeners = this.#listeners.filter((other) => other !== entry);
  }

  #find(listener, type, capture) {
    return this.#listeners.find((entry) => entry.listener === listener && entry.type === type && entry.capture === capture);
  }

  dispatchEvent(event) {
    if (!(event instanceof Event)) throw new TypeError('dispatchEvent needs an Event');
    if (event.eventPhase !== Event.NONE) throw new DOMException('the event is being dispatched', 'InvalidStateError');
    event.target = event.currentTarget = this;
    event.eventPhase = Event.AT_TARGET;
    const property = this[`on${event.type}`];
    const called = this.#listeners.filter((entry) => entry.type === event.type);
    if (typeof property === 'function') called.unshift({ listener: property });
    for (const entry of called) {
      if (entry.removed) continue;
      if (entry.once) this.removeEventListener(event.type, entry.listener, entry.capture);
      call(this, entry.listener, event);
      if (event[STOPPED]) break;
    }
    event.eventPhase = Event.NONE;
    event.currentTarget = null;
    return !event.defaultPrevented;
  }
}

// A listener that throws stops neither the others nor whoever dispatches: its error surfaces as one of a timer does.
const call = (target, listener, event) => {
  try {
    if (typeof listener === 'function') listener.call(target, event);
    else listener.handleEvent(event);
  } catch (error) {
    chatfn.setTimer(() => { throw error; }, 0);
  }
};

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
      if (!(signal instanceof AbortSignal)) throw new TypeError('AbortSignal.any needs signals');
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

chatfn.defineAll({ Event, CustomEvent, EventTarget, AbortSignal, AbortController });
