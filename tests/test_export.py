"""Nothing is trained for an export, and what is wrong with it is said before anything is read."""

from yolop.__main__ import main


def test_nothing_is_trained_for_an_export(project, capsys):
    assert main(["export", "smoke"]) == 1
    assert "not computed on this machine yet: python -m yolop run smoke" in capsys.readouterr().err
    assert main(["export", "smoke", "--model", "q"]) == 2 and "one of s, n, p" in capsys.readouterr().err
    assert main(["export", "smoke", "--sparsity", "0.3"]) == 2 and "0.9" in capsys.readouterr().err
