"""A model folder as Python sees it: the manifest as a map (needs PyYAML) and the tensors of its weights."""
import os

import safetensors_file


class Model:
    def __init__(self, folder):
        import yaml
        self.folder = folder
        with open(os.path.join(folder, "model.yaml"), encoding="utf-8") as file:
            self.manifest = yaml.safe_load(file)
        self.tensors = safetensors_file.read(os.path.join(folder, self.manifest["weights"]))[0]

    def torch_network(self):
        import segformer3d_torch
        return segformer3d_torch.load(self.manifest["network"], self.tensors)
