"""What a notebook is furnished with: guess and reveal, quiz, exercise, spoken answer, and the learner's progress.

Everything shown here has one plain text that depends on its arguments alone, never on the learner, so that strict nbval can compare it.
What the learner did stands in the widget and in the HTML. ipywidgets is imported only when something is shown.
"""

from mllandscape.course.exercises import check, exercise
from mllandscape.course.questions import guess, quiz, reveal
from mllandscape.course.shown import Shown
from mllandscape.course.speech import spoken

__all__ = ["Shown", "check", "exercise", "guess", "quiz", "reveal", "spoken"]
