"""Draw `screen.mp4` and `screen.jpg`, the media that the simulated service hands out.

Run at development time only, by hand, with ffmpeg (libx264) on the path:

    python g2a_archive/demo/assets/make_media.py

The picture is made of plain rectangles, a desktop with a window and a moving pointer, so nobody's
rights are touched. The clip is what a player anywhere can show: H.264 baseline, yuv420p, the
`moov` box before the data.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

HERE = Path(__file__).parent
SECONDS = 2
FRAMES_PER_SECOND = 5

DESKTOP = (
    f"color=c=0x1d3557:size=320x180:rate={FRAMES_PER_SECOND}:duration={SECONDS}"
    ",drawbox=x=0:y=166:w=320:h=14:color=0x14213d:t=fill"
    ",drawbox=x=60:y=24:w=200:h=120:color=0xf1faee:t=fill"
    ",drawbox=x=60:y=24:w=200:h=14:color=0x457b9d:t=fill"
    ",drawbox=x=76:y=54:w=140:h=6:color=0xa8dadc:t=fill"
    ",drawbox=x=76:y=70:w=110:h=6:color=0xa8dadc:t=fill"
    ",drawbox=x=76:y=86:w=126:h=6:color=0xa8dadc:t=fill"
)
POINTER = f"color=c=0xe63946:size=10x10:rate={FRAMES_PER_SECOND}:duration={SECONDS}"
SCENE = f"{DESKTOP}[desktop];{POINTER}[pointer];[desktop][pointer]overlay=x='40+t*100':y='40+t*40'"

REPRODUCIBLE = ["-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact"]


def ffmpeg(*arguments: str) -> None:
    """Draw the scene with the given output arguments."""
    command = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", SCENE, *arguments]
    subprocess.run(command, check=True)


def main() -> None:
    """Write both files beside this script."""
    ffmpeg(
        *("-an", "-c:v", "libx264", "-profile:v", "baseline", "-pix_fmt", "yuv420p"),
        *("-preset", "veryslow", "-crf", "32", "-g", "10"),
        *("-bsf:v", "filter_units=remove_types=6"),  # SEI: the encoder's options, useless here
        *("-movflags", "+faststart", *REPRODUCIBLE, str(HERE / "screen.mp4")),
    )
    ffmpeg(
        *("-frames:v", "1", "-c:v", "mjpeg", "-q:v", "6", "-huffman", "optimal"),
        *("-pix_fmt", "yuvj420p", *REPRODUCIBLE, str(HERE / "screen.jpg")),
    )


if __name__ == "__main__":
    main()
