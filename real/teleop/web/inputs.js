// What a person holds: keys, gamepad, touch pads. Everything is let go when the page is no longer looked at.
const MOTION = {
  KeyW: [0, 1], KeyS: [0, -1], KeyA: [1, 1], KeyD: [1, -1], KeyR: [2, 1], KeyF: [2, -1],
  KeyU: [3, -1], KeyO: [3, 1], KeyI: [4, 1], KeyK: [4, -1], KeyJ: [5, 1], KeyL: [5, -1],
};
const GRIPPER = { KeyE: 1, KeyQ: -1 };
const EVENTS = {
  Escape: "stop", Enter: "start", KeyY: "success", KeyN: "failure", Backspace: "discard", KeyT: "takeover", KeyG: "release",
  KeyH: "home", KeyC: "frame", Space: "grip", KeyZ: "hold", KeyV: "resume",
};
const BUTTONS = { 0: "success", 1: "failure", 2: "discard", 8: "stop", 9: "start" };
const DEAD_ZONE = 0.12;

const clip = (value) => Math.max(-1, Math.min(1, value));
const zoned = (value) => (Number.isFinite(value) && Math.abs(value) > DEAD_ZONE ? clip((value - Math.sign(value) * DEAD_ZONE) / (1 - DEAD_ZONE)) : 0);

export class Inputs {
  constructor(press) {
    this.press = press; // (event name)
    this.keys = new Set();
    this.pads = { left: [0, 0], right: [0, 0] };
    this.touched = new Set();
    this.squeeze = { open: false, close: false };
    this.dial = 0.5;
    this.looked = true;
    this.jointwise = false;
    this.joint = 0;
    this.count = 0; // of joints
    this.buttons = [];
    this.taken = false; // whether the person acts, as the server says
    this.pose = () => null; // of a phone, while it is held
    window.addEventListener("keydown", (event) => this.down(event));
    window.addEventListener("keyup", (event) => this.keys.delete(event.code));
    for (const name of ["blur", "pagehide"]) window.addEventListener(name, () => this.letGo());
    document.addEventListener("visibilitychange", () => { if (document.hidden) this.letGo(); });
    window.addEventListener("focus", () => { this.looked = true; });
    window.addEventListener("pointerdown", () => { this.looked = true; }, true);
    for (const name of ["left", "right"]) this.stick(document.getElementById(name), name);
    for (const name of ["open", "close"]) this.hold(document.getElementById(name), (on) => { this.squeeze[name] = on; });
  }

  letGo() {
    this.keys.clear();
    this.touched.clear();
    this.pads = { left: [0, 0], right: [0, 0] };
    this.squeeze = { open: false, close: false };
    this.looked = false;
    for (const knob of document.querySelectorAll(".pad i")) knob.style.transform = "";
  }

  down(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    this.looked = true;
    const code = event.code;
    if (code in MOTION || code in GRIPPER || code in EVENTS) event.preventDefault();
    if (event.repeat) return;
    if (code in EVENTS) this.press(EVENTS[code]);
    else if (code === "BracketLeft" || code === "BracketRight") this.choose(code === "BracketLeft" ? -1 : 1);
    else if (event.key === "+" || event.key === "=") this.turn(0.1);
    else if (event.key === "-") this.turn(-0.1);
    else if (code in MOTION || code in GRIPPER) this.keys.add(code);
  }

  choose(step) { if (this.count) this.joint = (this.joint + step + this.count) % this.count; }

  turn(step) { this.dial = Math.max(0.01, Math.min(1, Math.round(100 * (this.dial + step)) / 100)); }

  hold(element, held) {
    element.addEventListener("pointerdown", (event) => { event.preventDefault(); element.setPointerCapture(event.pointerId); held(true); });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) element.addEventListener(name, () => held(false));
    element.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  // A stick that a finger drags; every finger has its own.
  stick(pad, name) {
    let finger = null;
    const knob = pad.querySelector("i");
    const move = (event) => {
      if (event.pointerId !== finger) return;
      const box = pad.getBoundingClientRect();
      let x = (2 * (event.clientX - box.left)) / box.width - 1, y = 1 - (2 * (event.clientY - box.top)) / box.height;
      const length = Math.max(1, Math.hypot(x, y));
      x /= length; y /= length;
      this.pads[name] = [x, y];
      knob.style.transform = `translate(${x * 48}px, ${-y * 48}px)`;
    };
    pad.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      if (finger !== null && this.touched.has(name)) return;
      finger = event.pointerId;
      pad.setPointerCapture(finger);
      this.touched.add(name);
      move(event);
    });
    pad.addEventListener("pointermove", (event) => { if (this.touched.has(name)) move(event); });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) pad.addEventListener(end, (event) => {
      if (event.pointerId !== finger) return;
      finger = null;
      this.pads[name] = [0, 0];
      this.touched.delete(name);
      knob.style.transform = "";
    });
    pad.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  gamepads() { return navigator.getGamepads ? Array.from(navigator.getGamepads()).filter((pad) => pad && pad.connected) : []; }

  // Axes, gripper and clutch of the gamepads; buttons that went down are pressed.
  played(axes) {
    let gripper = 0, clutch = false;
    for (const pad of this.gamepads()) {
      const down = (n) => Boolean(pad.buttons[n] && pad.buttons[n].pressed);
      const before = this.buttons[pad.index] || [];
      this.buttons[pad.index] = pad.buttons.map((button) => button.pressed);
      for (const [n, name] of Object.entries(BUTTONS)) if (down(n) && !before[n]) this.press(name);
      if (down(3) && !before[3]) this.press(this.taken ? "release" : "takeover");
      if (down(12) && !before[12]) this.turn(0.1);
      if (down(13) && !before[13]) this.turn(-0.1);
      if (down(14) && !before[14]) this.choose(-1);
      if (down(15) && !before[15]) this.choose(1);
      const [lx, ly, rx, ry] = [0, 1, 2, 3].map((n) => zoned(pad.axes[n]));
      const tilts = down(5);
      axes[0] -= ly; axes[1] -= lx; axes[5] -= tilts ? 0 : rx;
      axes[tilts ? 4 : 2] -= ry;
      if (tilts) axes[3] += rx;
      gripper += (pad.buttons[6] ? pad.buttons[6].value : 0) - (pad.buttons[7] ? pad.buttons[7].value : 0);
      clutch = clutch || down(4) || down(5);
    }
    return { gripper, clutch };
  }

  shake(strong, ms) {
    for (const pad of this.gamepads()) {
      const actuator = pad.vibrationActuator;
      if (actuator && actuator.playEffect) Promise.resolve(actuator.playEffect("dual-rumble", { duration: ms, strongMagnitude: strong, weakMagnitude: strong / 2 })).catch(() => {});
    }
    if (navigator.vibrate && this.touched.size) navigator.vibrate(ms);
  }

  // What the next beat says.
  read() {
    const axes = [0, 0, 0, 0, 0, 0];
    const pad = this.played(axes); // also when nobody looks: its buttons are pressed once, not again later
    if (!this.looked) return { axes: [0, 0, 0, 0, 0, 0], gripper: 0, clutch: false, dial: this.dial };
    let gripper = pad.gripper, clutch = pad.clutch || this.touched.size > 0;
    if (!pad.clutch) axes.fill(0);
    for (const code of this.keys) {
      if (code in MOTION) axes[MOTION[code][0]] += MOTION[code][1];
      else gripper += GRIPPER[code];
      clutch = true;
    }
    gripper += (this.squeeze.open ? 1 : 0) - (this.squeeze.close ? 1 : 0);
    clutch = clutch || this.squeeze.open || this.squeeze.close;
    axes[0] += this.pads.left[1]; axes[1] -= this.pads.left[0];
    axes[2] += this.pads.right[1]; axes[5] -= this.pads.right[0];
    const out = { axes: axes.map(clip), gripper: clip(gripper), clutch, dial: this.dial };
    if (this.jointwise && this.count) {
      out.joints = Array.from({ length: this.count }, (_, n) => (n === this.joint ? out.axes[0] : 0));
    } else {
      const pose = this.pose();
      if (pose) { out.pose = pose; out.clutch = true; }
    }
    return out;
  }
}
