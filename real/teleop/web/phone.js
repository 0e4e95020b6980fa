// A phone as the robot's hand: its turn from the motion sensors, its place too in AR (WebXR). Both need HTTPS.
// Poses are [x, y, z, w, qx, qy, qz] in a frame whose z is up and whose x is where the person looked when they began to hold.
const product = ([a, b, c, d], [e, f, g, h]) => [a * e - b * f - c * g - d * h, a * f + b * e + c * h - d * g, a * g - b * h + c * e + d * f, a * h + b * g - c * f + d * e];
const about = (axis, angle) => [Math.cos(angle / 2), ...[0, 1, 2].map((n) => (n === axis ? Math.sin(angle / 2) : 0))];
const turned = (q, v) => product(product(q, [0, ...v]), [q[0], -q[1], -q[2], -q[3]]).slice(1);

export const fromAngles = (alpha, beta, gamma) => {
  const rad = Math.PI / 180; // the specification's order: about z, then x, then y
  return product(product(about(2, alpha * rad), about(0, beta * rad)), about(1, gamma * rad));
};

// Where the device points, as an angle about z: its top edge when it lies, its back when it stands.
export const heading = (q) => {
  let forward = turned(q, [0, 1, 0]);
  if (Math.hypot(forward[0], forward[1]) < 0.7) forward = turned(q, [0, 0, -1]);
  return Math.atan2(forward[1], forward[0]);
};

export const facing = (pose, angle) => {
  const turn = about(2, -angle);
  return [...turned(turn, pose.slice(0, 3)), ...product(turn, pose.slice(3))];
};

// WebXR's y is up: (x, y, z) -> (x, -z, y).
export const upright = (position, orientation) => [position.x, -position.z, position.y, orientation.w, orientation.x, -orientation.z, orientation.y];

export class Phone {
  constructor(button, arButton, help) {
    this.held = false;
    this.newest = null;
    this.angle = null;
    const secure = window.isSecureContext;
    help.textContent = secure
      ? "Phone: drag the two pads; hold the middle button and turn the phone to turn the hand; AR also moves it as the phone moves."
      : "Phone: drag the two pads. Its motion sensors and AR need HTTPS (certificate=, certificate_key=).";
    button.disabled = arButton.disabled = !secure;
    const hold = (on) => { this.held = on; this.angle = null; };
    button.addEventListener("pointerdown", (event) => { event.preventDefault(); button.setPointerCapture(event.pointerId); this.listen().then(() => hold(true)); });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) button.addEventListener(name, () => hold(false));
    for (const name of ["blur", "pagehide"]) window.addEventListener(name, () => hold(false));
    document.addEventListener("visibilitychange", () => { if (document.hidden) hold(false); });
    arButton.addEventListener("click", () => this.enter().catch((error) => { help.textContent = `AR: ${error.message}`; }));
    this.hold = hold;
  }

  async listen() {
    if (this.listening) return;
    this.listening = true;
    const kind = window.DeviceOrientationEvent;
    if (kind && kind.requestPermission && (await kind.requestPermission()) !== "granted") { this.listening = false; return; }
    window.addEventListener("deviceorientation", (event) => {
      if (!this.session && event.alpha !== null) this.newest = [0, 0, 0, ...fromAngles(event.alpha, event.beta, event.gamma)];
    });
  }

  async enter() {
    if (!navigator.xr) throw new Error("this browser has none");
    const session = await navigator.xr.requestSession("immersive-ar", { requiredFeatures: ["local"], optionalFeatures: ["dom-overlay"], domOverlay: { root: document.body } });
    this.session = session;
    const canvas = document.createElement("canvas");
    const gl = canvas.getContext("webgl", { xrCompatible: true });
    session.updateRenderState({ baseLayer: new XRWebGLLayer(session, gl) });
    const space = await session.requestReferenceSpace("local");
    session.addEventListener("selectstart", () => this.hold(true)); // a finger on the screen
    session.addEventListener("selectend", () => this.hold(false));
    session.addEventListener("end", () => { this.session = null; this.newest = null; this.hold(false); });
    const frame = (_, xr) => {
      session.requestAnimationFrame(frame);
      const pose = xr.getViewerPose(space);
      this.newest = pose ? upright(pose.transform.position, pose.transform.orientation) : null;
    };
    session.requestAnimationFrame(frame);
  }

  // The pose while it is held, null otherwise.
  read() {
    if (!this.held || !this.newest) { this.angle = null; return null; }
    if (this.angle === null) this.angle = heading(this.newest.slice(3));
    return facing(this.newest, this.angle);
  }
}
