import { Connection } from "/connection.js";

const line = document.getElementById("line");
const connection = new Connection(() => null, (message) => {
  document.body.dataset.connected = message.kind === "closed" ? "" : "yes";
  if (message.kind === "line") line.textContent = message.text;
  if (message.kind === "closed") line.textContent = "NOT CONNECTED: use the robot's own stop";
  if (message.kind === "status" && line.textContent.startsWith("NOT CONNECTED")) line.textContent = "";
}, async () => {});
const press = (name) => { if (!connection.press(name)) line.textContent = `NOT CONNECTED: use the robot's own stop; ${name} is sent as soon as possible`; };
for (const button of document.querySelectorAll("[data-event]")) {
  button.addEventListener("pointerdown", () => press(button.dataset.event));
  button.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") press(button.dataset.event); });
}
window.addEventListener("keydown", (event) => { if (event.code === "Escape") press("stop"); });
