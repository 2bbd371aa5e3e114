"""What the tests of the ledger's homes share: assertions of the suite say what differed."""

import pytest

pytest.register_assert_rewrite("support.conformance")
