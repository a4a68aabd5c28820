// As much of Node's streams as `jws` needs to define its own; nothing here is ever read from or written to. Streams are
// not offered to lambdas, whose bodies are always whole.
const { EventEmitter } = require('events');

class Stream extends EventEmitter {}
Stream.Stream = Stream;

module.exports = Stream;
