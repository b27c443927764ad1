"""A page to look at a model with: points, cameras, photographs with their tracks, and figures."""

from vggsfm_cli.visualization.report.page import HtmlReportConfig, render_html_report, save_html_report

__all__ = ["HtmlReportConfig", "render_html_report", "save_html_report"]
