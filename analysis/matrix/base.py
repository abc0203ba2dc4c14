from analysis.implicit import *
from analysis.implicit import AttentionMatrix, ImplicitAttention
