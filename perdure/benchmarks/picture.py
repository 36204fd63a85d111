"""Pictures of MuJoCo scenes, drawn without a window. Imports no torch; MuJoCo only when used."""

from __future__ import annotations

from typing import Any

import numpy as np


class Picture:
    """Keeps the renderer of one environment.

    Shadows, reflections and multisampling are off, which without a GPU makes it about 15 times faster. Without a display the
    caller sets `MUJOCO_GL` to `egl` or `osmesa` in the environment before the process first imports mujoco.
    """

    def __init__(self) -> None:
        self._renderer: Any = None
        self._size = 0

    def draw(self, env: Any, camera: str, size: int) -> np.ndarray:
        """(size, size, 3) uint8, what `camera` of a Gymnasium MuJoCo environment sees."""
        import mujoco

        if self._size != size:
            self.close()
            model = env.model
            model.vis.quality.offsamples = 0
            model.vis.global_.offwidth = max(model.vis.global_.offwidth, size)
            model.vis.global_.offheight = max(model.vis.global_.offheight, size)
            self._renderer = mujoco.Renderer(model, size, size)
            self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
            self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
            self._size = size
        self._renderer.update_scene(env.data, camera=camera)
        return self._renderer.render()

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
        self._renderer, self._size = None, 0
