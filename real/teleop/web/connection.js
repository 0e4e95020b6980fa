// The connection to the page's server: beats 40 times a second, each answered at once; silence is seen by both ends.
const BEAT_MS = 25;
const AGAIN_MS = 400;

export class Connection {
  constructor(read, hear, image) {
    this.read = read; // what is held now, for the next beat; null: only look on
    this.hear = hear;
    this.image = image;
    this.echo = 0;
    this.number = 0;
    this.sentAt = new Map();
    this.latency = null;
    this.pending = []; // a stop or a hold that could not be sent yet
    this.open();
    this.timer = setInterval(() => this.beat(), BEAT_MS);
  }

  open() {
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/socket`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.socket = socket;
      this.number = 0;
      for (const name of this.pending.splice(0)) this.press(name);
    };
    socket.onmessage = (event) => this.take(event.data);
    socket.onclose = () => {
      this.socket = null;
      this.latency = null;
      this.sentAt.clear();
      this.hear({ kind: "closed" });
      setTimeout(() => this.open(), AGAIN_MS);
    };
  }

  get up() { return this.socket !== null && this.socket !== undefined && this.socket.readyState === WebSocket.OPEN; }

  send(message) {
    if (this.up && this.socket.bufferedAmount < 65536) { this.socket.send(JSON.stringify(message)); return true; }
    return false;
  }

  beat() {
    const held = this.read();
    if (held === null || !this.up) return;
    this.number += 1;
    if (this.send({ kind: "beat", number: this.number, echo: this.echo, ...held })) {
      this.sentAt.set(this.number, performance.now());
      if (this.sentAt.size > 400) this.sentAt.delete(this.sentAt.keys().next().value);
    }
  }

  press(name) {
    const safer = name === "stop" || name === "hold";
    if (safer && this.up) { this.socket.send(JSON.stringify({ kind: "event", name, echo: this.echo })); return true; } // however much waits before it
    if (!safer) return this.send({ kind: "event", name, echo: this.echo });
    if (!this.pending.includes(name)) this.pending.push(name);
    return false;
  }

  take(data) {
    if (data instanceof ArrayBuffer) {
      const view = new DataView(data);
      const number = view.getUint16(0) * 2 ** 32 + view.getUint32(2);
      const size = view.getUint16(6);
      const name = new TextDecoder().decode(new Uint8Array(data, 8, size));
      this.image(name, new Blob([new Uint8Array(data, 8 + size)], { type: "image/jpeg" })).finally(() => this.send({ kind: "drawn", value: number }));
      return;
    }
    const message = JSON.parse(data);
    if (message.kind === "answer") {
      this.echo = message.echo;
      const at = this.sentAt.get(message.number);
      if (at !== undefined) {
        const ms = performance.now() - at;
        this.latency = this.latency === null ? ms : 0.9 * this.latency + 0.1 * ms;
        this.sentAt.delete(message.number);
      }
    } else {
      this.hear(message);
    }
  }
}
