// What can be heard: one short melody for each cue (frequency in Hz, milliseconds).
const MELODIES = {
  recording: [[880, 120]], saved: [[660, 90], [990, 160]], discarded: [[440, 90], [330, 160]], taken: [[740, 80], [740, 80]],
  released: [[590, 160]], limit: [[220, 90]], stale: [[180, 250]], refused: [[200, 120], [200, 120]],
};
const SHAKES = { limit: [0.6, 120], taken: [0.4, 150], released: [0.2, 100], recording: [0.3, 100], saved: [0.5, 200], discarded: [0.3, 150], stale: [0.8, 250], refused: [0.6, 200] };

export class Cues {
  constructor(inputs) {
    this.inputs = inputs;
    this.heard = []; // names, the newest last
    const wake = () => { this.audio ??= new AudioContext(); };
    for (const name of ["pointerdown", "keydown"]) window.addEventListener(name, wake, { once: true });
  }

  play(name, yours) {
    this.heard.push(name);
    if (this.heard.length > 100) this.heard.shift();
    if (yours && name in SHAKES) this.inputs.shake(...SHAKES[name]);
    if (!this.audio || !(name in MELODIES)) return;
    let at = this.audio.currentTime;
    for (const [hz, ms] of MELODIES[name]) {
      const tone = this.audio.createOscillator(), volume = this.audio.createGain();
      tone.frequency.value = hz;
      volume.gain.setValueAtTime(0.12, at);
      volume.gain.linearRampToValueAtTime(0, at + ms / 1000);
      tone.connect(volume).connect(this.audio.destination);
      tone.start(at);
      tone.stop(at + ms / 1000);
      at += ms / 1000 + 0.03;
    }
  }
}
