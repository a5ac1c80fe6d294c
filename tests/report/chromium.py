"""A headless Chromium, for tests and benches of the page."""

import contextlib
import os
import pathlib
import shutil

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
ABSENT = (
  "needs Chromium and its driver: apt-get install chromium chromium-driver"
  if not (CHROMIUM and DRIVER)
  else ""
)


@contextlib.contextmanager
def browser(width: int = 1280, height: int = 900, phone: bool = False):
  """Yields a driver; its console is read by `errors`."""
  from selenium import webdriver

  options = webdriver.ChromeOptions()
  options.binary_location = CHROMIUM
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  arguments = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage"]
  if os.geteuid() == 0:  # Chromium has no sandbox for root
    arguments.append("--no-sandbox")
  # A page from disk needs no network; what asks for one anyway fails and is seen.
  arguments += ["--proxy-server=127.0.0.1:9", f"--window-size={width},{height}"]
  for argument in arguments:
    options.add_argument(argument)
  driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
  try:
    if phone:
      size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True}
      driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield driver
  finally:
    driver.quit()


def address(page: str | os.PathLike) -> str:
  return pathlib.Path(page).absolute().as_uri()


def errors(driver) -> list[str]:
  """What the console said since the last call, warnings too."""
  return [entry["message"] for entry in driver.get_log("browser")]
