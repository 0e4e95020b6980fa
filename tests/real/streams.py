"""Video sources for tests: a file whose pictures know their number, and a camera on the network that does as it is told."""

import http.server
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

FPS = 60.0
HEIGHT, WIDTH = 48, 64


def picture(number: int) -> np.ndarray:
    """BGR; grey by number on the left, red on the right."""
    out = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    out[:, : WIDTH // 2] = 8 * (number % 30)
    out[:, WIDTH // 2 :, 2] = 200
    return out


def number_of(image: np.ndarray) -> int:
    """Of an RGB picture."""
    return round(float(image[:, : image.shape[1] // 4].mean()) / 8)


def video_file(path: Path, pictures: int = 15) -> Path:
    import cv2

    out = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (WIDTH, HEIGHT))
    for k in range(pictures):
        out.write(picture(k))
    out.release()
    return path


class MotionJpeg(http.server.ThreadingHTTPServer):
    """A network camera: ``mode`` is play, stall (the connection stays), freeze (one picture again and again) or drop."""

    daemon_threads, mode, served = True, "play", 0

    @property
    def address(self) -> str:
        return f"http://somebody:secret@127.0.0.1:{self.server_port}/stream.mjpg"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: MotionJpeg

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        import cv2

        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        self.server.served += 1
        number = 0
        try:
            while self.server.mode != "drop":
                time.sleep(0.02)
                if self.server.mode == "stall":
                    continue
                number += self.server.mode == "play"
                body = cv2.imencode(".jpg", picture(number))[1].tobytes()
                self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(body) + body + b"\r\n")
                self.wfile.flush()
        except OSError:
            pass


@contextmanager
def network_camera():
    server = MotionJpeg(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.mode = "drop"
        server.shutdown()
        thread.join()
        server.server_close()
