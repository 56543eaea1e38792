"""`python train.py`: the same as the installed command `pspnet-train`."""

from pspnet_lightning.cli.train import main

if __name__ == "__main__":
    main()
