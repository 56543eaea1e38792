"""`python train.py`: the same as the installed command `pspnet-train`."""

from pspnet_lightning.cli.commands import train

if __name__ == "__main__":
    train()
