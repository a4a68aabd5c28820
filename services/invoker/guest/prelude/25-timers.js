// Timers live here; the host is told only when the next one is due. One timer runs per turn, with all
// promise jobs before the next, as in Node.

const MAX_DELAY = 2 ** 31 - 1;
// Inserting costs more the more there are.
const MAX_TIMERS = 10_000;

let nextId = 1;
const timers = new Map(); // id -> timer
const queue = []; // timers by due time, then by id

const insert = (timer) => {
  let low = 0;
  let high = queue.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (queue[middle].due <= timer.due) low = middle + 1;
    else high = middle;
  }
  queue.splice(low, 0, timer);
};

const announce = () => {
  host.wakeAt(queue.length === 0 ? -1 : queue[0].due);
};

const start = (callback, delay, args, repeat) => {
  if (typeof callback !== 'function') throw new TypeError('the callback of a timer must be a function');
  if (timers.size === MAX_TIMERS) throw new RangeError(`there are ${MAX_TIMERS} timers already; clear some, or wait for some, before setting more`);
  const wait = Math.trunc(Number(delay));
  const period = wait >= 1 && wait <= MAX_DELAY ? wait : 1;
  const timer = { id: nextId++, due: host.monotonic() + period, period, callback, args, repeat };
  timers.set(timer.id, timer);
  insert(timer);
  announce();
  return timer.id;
};

const clear = (id) => {
  const timer = timers.get(Number(id));
  if (timer === undefined) return;
  timers.delete(timer.id);
  queue.splice(queue.indexOf(timer), 1);
  announce();
};

chatfn.runTimer = () => {
  const timer = queue.shift();
  if (timer === undefined) return announce();
  if (timer.repeat) {
    timer.due = host.monotonic() + timer.period;
    insert(timer);
  } else {
    timers.delete(timer.id);
  }
  announce();
  timer.callback(...timer.args);
};

// For the prelude's own use, also where a lambda has replaced the globals.
chatfn.setTimer = (callback, delay) => start(callback, delay, [], false);
chatfn.clearTimer = clear;

chatfn.defineAll({
  setTimeout(callback, delay, ...args) {
    chatfn.onlyInRuns('setTimeout');
    return start(callback, delay, args, false);
  },
  setInterval(callback, delay, ...args) {
    chatfn.onlyInRuns('setInterval');
    return start(callback, delay, args, true);
  },
  setImmediate(callback, ...args) {
    chatfn.onlyInRuns('setImmediate');
    return start(callback, 0, args, false);
  },
  clearTimeout: clear,
  clearInterval: clear,
  clearImmediate: clear,
  queueMicrotask(callback) {
    if (typeof callback !== 'function') throw new TypeError('queueMicrotask needs a function');
    // An error must surface as one of a timer does, not disappear in a promise.
    Promise.resolve().then(callback).catch((error) => chatfn.setTimer(() => { throw error; }, 0));
  },
});

chatfn.define('performance', {
  timeOrigin: 0,
  now: () => host.monotonic(),
  mark() {},
  measure() {},
});
